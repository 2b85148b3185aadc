from typing import Literal

XAnyLabelingMarkType = Literal["auto_grid", "point", "rectangle"]

X_ANY_LABELING_MARK_TYPE_VALUES: set[XAnyLabelingMarkType] = {
    "auto_grid",
    "point",
    "rectangle",
}


def check_x_any_labeling_mark_type(value: str) -> XAnyLabelingMarkType:
    if value in X_ANY_LABELING_MARK_TYPE_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {X_ANY_LABELING_MARK_TYPE_VALUES!r}"
    )
