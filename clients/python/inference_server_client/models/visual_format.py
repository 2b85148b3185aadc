from typing import Literal

VisualFormat = Literal["binary", "json", "polygon", "rle"]

VISUAL_FORMAT_VALUES: set[VisualFormat] = {
    "binary",
    "json",
    "polygon",
    "rle",
}


def check_visual_format(value: str) -> VisualFormat:
    if value in VISUAL_FORMAT_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {VISUAL_FORMAT_VALUES!r}")
