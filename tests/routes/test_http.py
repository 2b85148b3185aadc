"""What every contract's routes do alike, where it can be seen without a server."""

from __future__ import annotations

from dataclasses import fields

import pytest

from inference_server.routes.http import _accepts_gzip, limits_of
from schemas.common import Limits
from tests.http.serving import settings


@pytest.mark.parametrize(
    ("accepted", "allowed"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("gzip, deflate, br", True),
        ("br;q=1.0, gzip;q=0.001", True),
        ("*", True),
        ("br, *;q=0.1", True),
        ("", False),
        ("identity", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("xgzip", False),
        (",,;;q=,", False),
    ],
)
def test_who_accepts_gzip(accepted: str, allowed: bool) -> None:
    assert _accepts_gzip(accepted) is allowed


def test_the_limits_of_requests_are_settings() -> None:
    assert limits_of(settings()) == Limits()
    for number, field in enumerate(fields(Limits), 1):
        assert getattr(limits_of(settings(**{field.name: number})), field.name) == number
