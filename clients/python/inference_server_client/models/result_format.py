from typing import Literal

ResultFormat = Literal["coco", "geojson", "geotiff"]

RESULT_FORMAT_VALUES: set[ResultFormat] = {
    "coco",
    "geojson",
    "geotiff",
}


def check_result_format(value: str) -> ResultFormat:
    if value in RESULT_FORMAT_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {RESULT_FORMAT_VALUES!r}")
