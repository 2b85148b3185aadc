from typing import Literal

SpaceLabel = Literal[0, 1]

SPACE_LABEL_VALUES: set[SpaceLabel] = {
    0,
    1,
}


def check_space_label(value: int) -> SpaceLabel:
    if value in SPACE_LABEL_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {SPACE_LABEL_VALUES!r}")
