from typing import Literal

AutomaticRequestTiles = Literal["always", "auto", "never"]

AUTOMATIC_REQUEST_TILES_VALUES: set[AutomaticRequestTiles] = {
    "always",
    "auto",
    "never",
}


def check_automatic_request_tiles(value: str) -> AutomaticRequestTiles:
    if value in AUTOMATIC_REQUEST_TILES_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {AUTOMATIC_REQUEST_TILES_VALUES!r}"
    )
