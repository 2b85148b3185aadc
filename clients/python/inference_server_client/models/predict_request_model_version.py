from typing import Literal

PredictRequestModelVersion = Literal["sam", "sam2", "sam3"]

PREDICT_REQUEST_MODEL_VERSION_VALUES: set[PredictRequestModelVersion] = {
    "sam",
    "sam2",
    "sam3",
}


def check_predict_request_model_version(value: str) -> PredictRequestModelVersion:
    if value in PREDICT_REQUEST_MODEL_VERSION_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {PREDICT_REQUEST_MODEL_VERSION_VALUES!r}"
    )
