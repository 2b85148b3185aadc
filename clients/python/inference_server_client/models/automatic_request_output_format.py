from typing import Literal

AutomaticRequestOutputFormat = Literal["detections", "geojson", "geotiff", "json", "png"]

AUTOMATIC_REQUEST_OUTPUT_FORMAT_VALUES: set[AutomaticRequestOutputFormat] = {
    "detections",
    "geojson",
    "geotiff",
    "json",
    "png",
}


def check_automatic_request_output_format(value: str) -> AutomaticRequestOutputFormat:
    if value in AUTOMATIC_REQUEST_OUTPUT_FORMAT_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {AUTOMATIC_REQUEST_OUTPUT_FORMAT_VALUES!r}"
    )
