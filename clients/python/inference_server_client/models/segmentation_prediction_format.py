from typing import Literal

SegmentationPredictionFormat = Literal["polygon", "rle"]

SEGMENTATION_PREDICTION_FORMAT_VALUES: set[SegmentationPredictionFormat] = {
    "polygon",
    "rle",
}


def check_segmentation_prediction_format(value: str) -> SegmentationPredictionFormat:
    if value in SEGMENTATION_PREDICTION_FORMAT_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {SEGMENTATION_PREDICTION_FORMAT_VALUES!r}"
    )
