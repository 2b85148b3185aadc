from typing import Literal

TextRequestBackend = Literal["meta", "transformers"]

TEXT_REQUEST_BACKEND_VALUES: set[TextRequestBackend] = {
    "meta",
    "transformers",
}


def check_text_request_backend(value: str) -> TextRequestBackend:
    if value in TEXT_REQUEST_BACKEND_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {TEXT_REQUEST_BACKEND_VALUES!r}")
