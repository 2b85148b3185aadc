from typing import Literal

TextRequestTiles = Literal["always", "auto", "never"]

TEXT_REQUEST_TILES_VALUES: set[TextRequestTiles] = {
    "always",
    "auto",
    "never",
}


def check_text_request_tiles(value: str) -> TextRequestTiles:
    if value in TEXT_REQUEST_TILES_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {TEXT_REQUEST_TILES_VALUES!r}")
