"""Fields of requests whose images may be segmented by windows."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from schemas.common import InputModel, Limits, not_boolean

_BANDS = re.compile(r"\s*[1-9]\d{0,4}\s*(,\s*[1-9]\d{0,4}\s*,\s*[1-9]\d{0,4}\s*)?", re.ASCII)

Tiles = TypeAliasType(
    "Tiles",
    Annotated[
        Literal["auto", "always", "never"],
        Field(
            description="Whether the image is segmented by windows. `auto`: a TIFF file that is "
            "too large to be encoded as a whole, or larger than `tile_size`. `never`: such a file "
            "is refused (413)."
        ),
    ],
)

Pixels = Annotated[int, BeforeValidator(not_boolean)]
"""A number of pixels."""


class WindowOptions(InputModel):
    """How an image is segmented by windows, and which of its bands are shown."""

    tiles: Tiles = Field(
        default="auto",
        description="Whether the image is segmented by windows: only TIFF files are.",
    )
    tile_size: Pixels | None = Field(
        default=None,
        description="Side of a window in pixels of the image. Default: that of the model's input, "
        "so that nothing is reduced.",
    )
    tile_overlap: Pixels | None = Field(
        default=None,
        description="Pixels that neighbouring windows share at least; less than half of "
        "`tile_size`. Default: an eighth of it.",
    )
    bands: str | None = Field(
        default=None,
        description="Bands of a TIFF file to show as red, green and blue, such as `3,2,1`, or one "
        "to show as grey. Default: those that the file says.",
    )

    @field_validator("tile_size")
    @classmethod
    def _is_in_range(cls, size: int | None, info: ValidationInfo) -> int | None:
        limits = Limits.of(info)
        if size is not None and not limits.min_tile_size <= size <= limits.max_tile_size:
            raise PydanticCustomError(
                "tile_size",
                "tile_size must be {least} to {most} pixels, not {size}; the limits are "
                "INFERENCE_MIN_TILE_SIZE and INFERENCE_MAX_TILE_SIZE on the server",
                {"least": limits.min_tile_size, "most": limits.max_tile_size, "size": size},
            )
        return size

    @field_validator("tile_overlap")
    @classmethod
    def _is_less_than_half(cls, overlap: int | None, info: ValidationInfo) -> int | None:
        size = info.data.get("tile_size")
        least, most = 0, Limits.of(info).max_tile_size if size is None else size
        if overlap is not None and not least <= 2 * overlap < most:
            raise PydanticCustomError(
                "tile_overlap",
                "tile_overlap must be 0 or more and less than half of tile_size, not {overlap}; "
                "send a smaller one, or a larger tile_size",
                {"overlap": overlap},
            )
        return overlap

    @field_validator("bands")
    @classmethod
    def _are_one_or_three(cls, bands: str | None) -> str | None:
        if bands is not None and not _BANDS.fullmatch(bands):
            raise PydanticCustomError(
                "bands",
                "bands must be three numbers for red, green and blue, such as 3,2,1, or one for "
                "grey; the first band is 1",
            )
        return bands

    @model_validator(mode="after")
    def _has_windows(self) -> WindowOptions:
        if self.tiles == "never" and (self.tile_size or self.tile_overlap):
            raise PydanticCustomError(
                "tiles",
                "tiles is never, but tile_size or tile_overlap is sent; send tiles auto or always, "
                "or leave them out",
            )
        return self
