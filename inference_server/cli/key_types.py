"""Types of the options of `inference-server keys`."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

import click

NONE = "none"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
"""Seconds per unit of a duration such as 30d."""

MOST_CREDITS = 2**53
_LONGEST_RATE = 64


class Rate(click.ParamType[str]):
    """A rate limit, or `none`."""

    name = "RATE"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Convert the text of an option."""
        from inference_server.auth import parse_rate

        if value == NONE:
            return ""
        try:
            parse_rate(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if len(value) > _LONGEST_RATE:
            self.fail(f"{value!r} is longer than {_LONGEST_RATE} characters.", param, ctx)
        return str(value)


class Credits(click.ParamType[int]):
    """A number of credits, or `none`."""

    name = "NUMBER"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Convert the text of an option."""
        if value == NONE:
            return -1
        if not re.fullmatch(r"\d{1,16}", str(value)) or int(value) > MOST_CREDITS:
            self.fail(
                f"{value!r} is not a number of credits. Use a whole number from 0 to "
                f"{MOST_CREDITS}, or {NONE}.",
                param,
                ctx,
            )
        return int(value)


class When(click.ParamType[float]):
    """An expiry: a duration or a date; 0 for none."""

    name = "WHEN"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Convert the text of an option."""
        if value in (NONE, "never"):
            return 0.0
        if match := re.fullmatch(r"(\d{1,6})([smhdwy])", value):
            return time.time() + int(match[1]) * _UNITS[match[2]]
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is not a duration or a date. Use 30d, 12h, a date such as 2027-01-31, "
                "or never.",
                param,
                ctx,
            )
        end = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if end <= time.time():
            self.fail(f"{value!r} is in the past. Use a later date.", param, ctx)
        return end


class Word(click.ParamType[str]):
    """A word of a certain form.

    Args:
        name: name of the value in help.
        pattern: regular expression of the whole word.
        rule: the form in words, for error messages.
    """

    def __init__(self, name: str, pattern: str, rule: str) -> None:
        self.name, self._pattern, self._rule = name, pattern, rule

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Convert the text of an option."""
        if not re.fullmatch(self._pattern, value) or not value.isprintable():
            self.fail(f"{value!r} is invalid: {self._rule}.", param, ctx)
        return str(value)


NAME = Word(
    "NAME", r"\S(.{0,62}\S)?", "a name has 1 to 64 characters, without spaces at either end"
)
TENANT = Word(
    "TENANT", r"[A-Za-z0-9._-]{1,48}", "a tenant has 1 to 48 of the characters A-Z a-z 0-9 . _ -"
)
ID = Word("ID", r"[0-9a-f]{12}", "an id has 12 characters of 0-9 a-f; `keys list` shows all ids")
