from typing import Literal

Sam3PromptEchoType = Literal["text", "visual"]

SAM_3_PROMPT_ECHO_TYPE_VALUES: set[Sam3PromptEchoType] = {
    "text",
    "visual",
}


def check_sam_3_prompt_echo_type(value: str) -> Sam3PromptEchoType:
    if value in SAM_3_PROMPT_ECHO_TYPE_VALUES:
        return value
    raise TypeError(
        f"Unexpected value {value!r}. Expected one of {SAM_3_PROMPT_ECHO_TYPE_VALUES!r}"
    )
