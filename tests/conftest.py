"""One running server for all tests that talk HTTP, and the pictures that they send it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.fuzz import fuzzed

if TYPE_CHECKING:
    from tests.api.pictures import Gallery, Picture
    from tests.api.serving import RunningHere

# What is set for the developer's own server is none of the tests' business.
for _name in [name for name in os.environ if name.startswith("INFERENCE_")]:
    del os.environ[_name]

# Where nothing else is said: no example can be late on a busy machine, and all runs try the same.
settings.register_profile("tests", fuzzed(100))
settings.load_profile("tests")


@pytest.fixture(scope="session")
def server() -> Iterator[RunningHere]:
    """A server with two keys that may fetch pictures from this machine."""
    # Imported here: most tests need neither torch nor a server.
    from tests.api.serving import serving

    with serving(fetch_networks="127.0.0.0/8") as running:
        yield running


@pytest.fixture(scope="session")
def gallery() -> Iterator[Gallery]:
    """A web server with pictures."""
    from tests.api.pictures import gallery

    with gallery() as shown:
        yield shown


@pytest.fixture(scope="session")
def picture() -> Picture:
    """640 x 480 with two red circles, two blue circles, a red square and a blue one."""
    from inference_server.demo.scenes import make_scene
    from tests.api.pictures import Picture

    picture = Picture(
        make_scene(
            531, (640, 480), count=(6, 6), shapes=("circle", "square"), colors=("red", "blue")
        )
    )
    counts = {"red circle": 2, "blue circle": 2, "red square": 1, "blue square": 1}
    assert {text: len(picture.matching(text)) for text in counts} == counts
    return picture


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of the tests' own."""
    from tests.jobs.postgres import postgres

    with postgres() as url:
        yield url
