from typing import Literal

TextRequestOutputFormat = Literal["detections", "geojson", "geotiff", "json", "png"]

TEXT_REQUEST_OUTPUT_FORMAT_VALUES: set[TextRequestOutputFormat] = {
    "detections",
    "geojson",
    "geotiff",
    "json",
    "png",
}


def check_text_request_output_format(value: str) -> TextRequestOutputFormat:
    if value in TEXT_REQUEST_OUTPUT_FORMAT_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {TEXT_REQUEST_OUTPUT_FORMAT_VALUES!r}"
    )
