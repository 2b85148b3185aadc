from typing import Literal

CheckpointFamily = Literal["sam1", "sam2", "sam3"]

CHECKPOINT_FAMILY_VALUES: set[CheckpointFamily] = {
    "sam1",
    "sam2",
    "sam3",
}


def check_checkpoint_family(value: str) -> CheckpointFamily:
    if value in CHECKPOINT_FAMILY_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {CHECKPOINT_FAMILY_VALUES!r}")
