from typing import Literal

LabelRowItem = Literal[0, 1]

LABEL_ROW_ITEM_VALUES: set[LabelRowItem] = {
    0,
    1,
}


def check_label_row_item(value: int) -> LabelRowItem:
    if value in LABEL_ROW_ITEM_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {LABEL_ROW_ITEM_VALUES!r}")
