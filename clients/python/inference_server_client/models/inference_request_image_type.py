from typing import Literal

InferenceRequestImageType = Literal["base64", "url"]

INFERENCE_REQUEST_IMAGE_TYPE_VALUES: set[InferenceRequestImageType] = {
    "base64",
    "url",
}


def check_inference_request_image_type(value: str) -> InferenceRequestImageType:
    if value in INFERENCE_REQUEST_IMAGE_TYPE_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {INFERENCE_REQUEST_IMAGE_TYPE_VALUES!r}"
    )
