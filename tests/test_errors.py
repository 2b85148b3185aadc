"""The error classes: their diagram, their documentation and their responses."""

from __future__ import annotations

import re

import pytest

from inference_server import errors
from inference_server.api.endpoint import message_wording
from inference_server.api.openapi import COMMON_ERRORS
from inference_server.errors import (
    AuthError,
    CapacityError,
    InferenceServerError,
    InvalidRequestError,
    MethodError,
    PromptError,
)


def tree(root: type[InferenceServerError]) -> list[type[InferenceServerError]]:
    """Return a class and its subclasses in its module."""
    below = [cls for child in root.__subclasses__() for cls in tree(child)]
    return [root, *(cls for cls in below if cls.__module__ == errors.__name__)]


ALL = tree(InferenceServerError)


def test_the_diagram_matches_the_classes() -> None:
    drawn = re.findall(r"(\w+Error)\s+(\d{3})?", str(errors.__doc__))
    assert [name for name, _ in drawn] == [cls.__name__ for cls in ALL]
    for (name, status), cls in zip(drawn, ALL, strict=True):
        assert not status or int(status) == cls.status, name


def test_reasons_are_distinct() -> None:
    reasons = [cls.reason for cls in ALL]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch("[a-z_]+", reason) for reason in reasons)


@pytest.mark.parametrize("cls", ALL)
def test_every_status_is_documented(cls: type[InferenceServerError]) -> None:
    """A method is refused before an operation is chosen, so no operation documents its 405."""
    assert cls.status in COMMON_ERRORS or cls is MethodError


@pytest.mark.parametrize("cls", ALL)
def test_the_message_is_the_text_of_the_exception(cls: type[InferenceServerError]) -> None:
    error = cls("what happened")
    assert error.message == str(error) == "what happened"


def test_headers() -> None:
    assert CapacityError("full", retry_after=2.6).headers == {"retry-after": "3"}
    assert CapacityError("full", retry_after=0.01).headers == {"retry-after": "1"}
    assert AuthError("who?").headers["www-authenticate"].startswith("Bearer")
    assert InferenceServerError("?").headers == {}


def test_wording() -> None:
    assert message_wording(AuthError("who?")) == {"message": "who?", "code": "auth"}
    where = PromptError("not that one", ("body", "prompts", 2))
    assert message_wording(where) == {
        "detail": [{"loc": ["body", "prompts", 2], "msg": "not that one", "type": "value_error"}],
        "code": "prompt",
    }
    detail = [{"loc": ["body"], "msg": "?", "type": "missing"}]
    assert message_wording(InvalidRequestError("?", detail)) == {
        "detail": detail,
        "code": "validation",
    }
