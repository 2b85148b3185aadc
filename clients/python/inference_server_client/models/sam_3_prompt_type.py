from typing import Literal

Sam3PromptType = Literal["text", "visual"]

SAM_3_PROMPT_TYPE_VALUES: set[Sam3PromptType] = {
    "text",
    "visual",
}


def check_sam_3_prompt_type(value: str) -> Sam3PromptType:
    if value in SAM_3_PROMPT_TYPE_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {SAM_3_PROMPT_TYPE_VALUES!r}")
