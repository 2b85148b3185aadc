from typing import Literal

PredictRequestOutputFormat = Literal["detections", "geojson", "geotiff", "json", "png"]

PREDICT_REQUEST_OUTPUT_FORMAT_VALUES: set[PredictRequestOutputFormat] = {
    "detections",
    "geojson",
    "geotiff",
    "json",
    "png",
}


def check_predict_request_output_format(value: str) -> PredictRequestOutputFormat:
    if value in PREDICT_REQUEST_OUTPUT_FORMAT_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {PREDICT_REQUEST_OUTPUT_FORMAT_VALUES!r}"
    )
