"""Test tiers, and the fixtures that tests of several packages share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.fuzz import fuzzed

if TYPE_CHECKING:
    from tests.api.pictures import Gallery, Picture
    from tests.api.serving import RunningHere

# The developer's own server settings must not influence the tests.
for _name in [name for name in os.environ if name.startswith("INFERENCE_")]:
    del os.environ[_name]
# `auto` is measured, so it depends on the machine.
os.environ["INFERENCE_DTYPE"] = "float32"

# The default: no deadlines, because machines can be busy, and the same examples in every run.
settings.register_profile("tests", fuzzed(100))
settings.load_profile("tests")

SYSTEM = (
    "tests/benchmarks/",
    "tests/cli/test_bench.py",
    "tests/cli/test_cluster.py",
    "tests/cli/test_resumed_rasters.py",
    "tests/cli/test_segment.py",
    "tests/cli/test_segment_options.py",
    "tests/cli/test_segment_rasters.py",
    "tests/cli/test_serve.py",
    "tests/clients/",
    "tests/deploy/",
    "tests/e2e/",
    "tests/jobs/test_crash.py",
    "tests/playground/",
    "tests/test_contributing.py",
    "tests/test_docs.py",
    "tests/test_site.py",
    "tests/training/",
    "tests/api/test_faults.py",
    "tests/api/test_load.py",
    "tests/api/test_models.py",
    "tests/api/test_schemathesis.py",
)
"""Files and directories of the tier `system`: their tests start processes, browsers, databases or
vendors' clients, or take minutes. Single tests join it with `@pytest.mark.system`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the directories and files in `SYSTEM`."""
    for item in items:
        if item.nodeid.startswith(SYSTEM):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def server() -> Iterator[RunningHere]:
    """The application in this process, without a socket, with two keys.

    It may fetch images from this machine. Modules whose subject is the socket override this fixture
    by `listening`.
    """
    # Imported late: most tests need neither torch nor a server.
    from tests.api.serving import in_process

    with in_process(fetch_networks="127.0.0.0/8") as running:
        yield running


@pytest.fixture(scope="session")
def listening() -> Iterator[RunningHere]:
    """The same behind a socket: a server in a thread of this process."""
    from tests.api.serving import serving

    with serving(fetch_networks="127.0.0.0/8") as running:
        yield running


@pytest.fixture(scope="session")
def gallery() -> Iterator[Gallery]:
    """A web server that serves test images."""
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
def published_sam3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SAM 3 in the published layout; its visual head has random weights."""
    from tests.checkpoints import write_demo_words_random_points

    directory = tmp_path_factory.mktemp("weights") / "published"
    write_demo_words_random_points(directory)
    return directory


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server started for the tests."""
    from tests.jobs.postgres import postgres

    with postgres() as url:
        yield url
