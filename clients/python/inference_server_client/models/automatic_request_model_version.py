from typing import Literal

AutomaticRequestModelVersion = Literal["sam", "sam2", "sam3"]

AUTOMATIC_REQUEST_MODEL_VERSION_VALUES: set[AutomaticRequestModelVersion] = {
    "sam",
    "sam2",
    "sam3",
}


def check_automatic_request_model_version(value: str) -> AutomaticRequestModelVersion:
    if value in AUTOMATIC_REQUEST_MODEL_VERSION_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {AUTOMATIC_REQUEST_MODEL_VERSION_VALUES!r}"
    )
