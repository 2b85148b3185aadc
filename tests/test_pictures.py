"""The pictures in docs/ are up to date, small, and each is shown on a page."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.api.serving import ALICE, TIMEOUT, RunningHere
from tests.pictures import MOST_BYTES, PICTURES, make
from tests.readme import pages


@pytest.fixture(scope="module")
def made(server: RunningHere) -> dict[str, bytes]:
    headers = {"x-api-key": ALICE}
    with httpx.Client(base_url=server.url, headers=headers, timeout=TIMEOUT) as client:
        return make(client)


def test_pictures_are_what_the_server_answers(made: dict[str, bytes]) -> None:
    for name, data in made.items():
        kept, new = (
            np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.int16)
            for file in ((PICTURES / name).read_bytes(), data)
        )
        # On another processor, outlines and labels may move by a pixel.
        assert np.mean(np.abs(kept - new).max(axis=2) > 48) < 0.01, name


def test_pictures_are_small_and_shown(made: dict[str, bytes]) -> None:
    text = "".join(page.read_text() for page in pages())
    for file in PICTURES.glob("*.*"):
        assert file.stat().st_size <= MOST_BYTES or file.name not in made, file
        assert f"pictures/{file.name})" in text, file
    assert made.keys() <= {file.name for file in PICTURES.iterdir()}


@pytest.fixture(scope="session")
def server(listening: RunningHere) -> RunningHere:
    """A server behind a socket."""
    return listening
