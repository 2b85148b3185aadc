from typing import Literal

Tiles = Literal["always", "auto", "never"]

TILES_VALUES: set[Tiles] = {
    "always",
    "auto",
    "never",
}


def check_tiles(value: str) -> Tiles:
    if value in TILES_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {TILES_VALUES!r}")
