from typing import Literal

ConceptFormat = Literal["json", "polygon", "rle"]

CONCEPT_FORMAT_VALUES: set[ConceptFormat] = {
    "json",
    "polygon",
    "rle",
}


def check_concept_format(value: str) -> ConceptFormat:
    if value in CONCEPT_FORMAT_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {CONCEPT_FORMAT_VALUES!r}")
