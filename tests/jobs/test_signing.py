"""Signed links: valid without an API key, and impossible to forge."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from inference_server.jobs import LinkSigner

LINKS = LinkSigner(b"s" * 32)
JOB = "0123456789abcdef" * 2


def parts(path: str) -> tuple[str, str, str, str]:
    """Split a link into (job, name, expires, signature)."""
    split = urlsplit(path)
    _, _, _, job_id, _, name = split.path.split("/")
    query = parse_qs(split.query)
    return job_id, unquote(name), query["expires"][0], query["signature"][0]


@pytest.mark.parametrize("name", ["preview.png", "a b.png", "ü.png"])
def test_a_link_is_valid_wherever_the_secret_is_known(name: str) -> None:
    path = LINKS.path(JOB, name, 1767225600.9)
    assert path.startswith(f"/v2/requests/{JOB}/files/")
    assert parts(path)[:3] == (JOB, name, "1767225600")
    assert LinkSigner(b"s" * 32).is_signed(*parts(path))


def test_any_change_invalidates_a_link() -> None:
    good = parts(LINKS.path(JOB, "preview.png", 1767225600))
    for index, other in enumerate(("f" * 32, "overlay.png", "1767225601", good[3][:-1] + "é")):
        changed = (*good[:index], other, *good[index + 1 :])
        assert not LINKS.is_signed(*changed)
    assert not LINKS.is_signed(*good[:3], "")
    assert not LINKS.is_signed(*good[:3], "\udc80")
    assert not LinkSigner(b"t" * 32).is_signed(*good)


def test_text_cannot_move_between_parts() -> None:
    _, _, _, signature = parts(LINKS.path(JOB, "a", 1))
    assert not LINKS.is_signed(JOB + "\na", "", "1", signature)


def test_signatures_have_at_least_200_bits() -> None:
    assert len(parts(LINKS.path(JOB, "preview.png", 1))[3]) * 6 > 200
