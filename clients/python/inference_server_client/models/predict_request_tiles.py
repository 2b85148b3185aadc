from typing import Literal

PredictRequestTiles = Literal["always", "auto", "never"]

PREDICT_REQUEST_TILES_VALUES: set[PredictRequestTiles] = {
    "always",
    "auto",
    "never",
}


def check_predict_request_tiles(value: str) -> PredictRequestTiles:
    if value in PREDICT_REQUEST_TILES_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {PREDICT_REQUEST_TILES_VALUES!r}")
