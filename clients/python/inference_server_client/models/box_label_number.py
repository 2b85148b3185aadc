from typing import Literal

BoxLabelNumber = Literal[0, 1]

BOX_LABEL_NUMBER_VALUES: set[BoxLabelNumber] = {
    0,
    1,
}


def check_box_label_number(value: int) -> BoxLabelNumber:
    if value in BOX_LABEL_NUMBER_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {BOX_LABEL_NUMBER_VALUES!r}")
