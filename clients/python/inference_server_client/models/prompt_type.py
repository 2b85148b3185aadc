from typing import Literal

PromptType = Literal["text", "visual"]

PROMPT_TYPE_VALUES: set[PromptType] = {
    "text",
    "visual",
}


def check_prompt_type(value: str) -> PromptType:
    if value in PROMPT_TYPE_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {PROMPT_TYPE_VALUES!r}")
