from typing import Literal

XAnyLabelingMarkLabel = Literal[0, 1]

X_ANY_LABELING_MARK_LABEL_VALUES: set[XAnyLabelingMarkLabel] = {
    0,
    1,
}


def check_x_any_labeling_mark_label(value: int) -> XAnyLabelingMarkLabel:
    if value in X_ANY_LABELING_MARK_LABEL_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {X_ANY_LABELING_MARK_LABEL_VALUES!r}"
    )
