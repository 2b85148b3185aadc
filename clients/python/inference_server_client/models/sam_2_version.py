from typing import Literal

Sam2Version = Literal["hiera_b_plus", "hiera_large", "hiera_small", "hiera_tiny"]

SAM_2_VERSION_VALUES: set[Sam2Version] = {
    "hiera_b_plus",
    "hiera_large",
    "hiera_small",
    "hiera_tiny",
}


def check_sam_2_version(value: str) -> Sam2Version:
    if value in SAM_2_VERSION_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {SAM_2_VERSION_VALUES!r}")
