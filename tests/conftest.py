"""Test tiers, and the fixtures that tests of several packages share."""

from __future__ import annotations

import gc
import itertools
import os
import ssl
import sys
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.mark.expression import Expression
from hypothesis import settings

from tests.fuzz import fuzzed
from tests.open_files import Opened, temporary_files

if TYPE_CHECKING:
    from tests.api.pictures import Gallery, Picture
    from tests.api.serving import RunningHere

# The developer's own server settings must not influence the tests.
for _name in [name for name in os.environ if name.startswith("INFERENCE_")]:
    del os.environ[_name]
# `auto` is measured, so it depends on the machine.
os.environ["INFERENCE_DTYPE"] = "float32"
# Test processes that run side by side divide the cores: PyTorch's threads wait for one another
# busily, which takes the time of the other processes. Set before anything imports PyTorch.
_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _processes > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _processes)))

# Each HTTP client reads all certificates of the machine, for 50 ms.
ssl.create_default_context = cache(ssl.create_default_context)  # type: ignore[assignment]

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
    *(
        f"tests/engines/sam3/test_fast_vit.py::{name}[published widths]"
        for name in (
            "test_attention_as_products_with_exact_scores_is_as_near",
            "test_bfloat16_is_as_near_as_autocast",
        )
    ),
    "tests/engines/sam3/test_visual_engine.py",
    "tests/engines/test_fake_device.py",
    "tests/engines/test_load_weights.py::TestSam2::test_a_published_file_loads_and_answers_a_click",
    "tests/jobs/test_crash.py",
    "tests/playground/",
    "tests/test_contributing.py",
    "tests/test_database.py::test_processes_that_start_together_upgrade_once",
    "tests/test_docs.py",
    "tests/test_pictures.py",
    "tests/test_site.py",
    "tests/training/",
    "tests/api/roboflow/test_management.py",
    "tests/api/roboflow/test_rasters.py",
    "tests/api/samgeo/test_rasters.py",
    "tests/api/test_bounds.py::test_caches_and_memory",
    "tests/api/test_corpus.py",
    "tests/api/test_faults.py",
    "tests/api/test_job_submissions.py",
    "tests/api/test_load.py",
    "tests/api/test_models.py",
    "tests/api/test_one_encoding.py",
    "tests/api/test_schemathesis.py",
    "tests/api/test_system.py",
)
"""Files, directories and single tests of the tier `system`: they start processes, browsers,
databases or vendors' clients, or servers of their own for each test, compute at the models'
published sizes, or take minutes."""

ROOT = Path(__file__).parents[1]
OTHER_MARKS = ("cluster", "image", "slow")


@cache
def selected(marks: str, system: bool) -> bool:
    """Whether a mark expression can select tests that are, or are not, of the tier `system`.

    Args:
        marks: The value of pytest's `-m`.
        system: Whether the tests have the mark `system`.
    """
    if not marks:
        return True
    expression = Expression.compile(marks)
    others = [*itertools.product((False, True), repeat=len(OTHER_MARKS))]

    def result(given: tuple[bool, ...]) -> bool:
        values = dict(zip(OTHER_MARKS, given, strict=True), system=system)

        def has(name: str, /, **_: object) -> bool:
            return values[name]

        return expression.evaluate(has)

    try:
        return any(map(result, others))
    except KeyError:  # another mark, which any test may have
        return True


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip files without selected tests: importing all of them takes each test process long."""
    path = collection_path.relative_to(ROOT).as_posix()
    if not path.startswith("tests/") or collection_path.suffix != ".py":
        return None
    marks: str = config.option.markexpr
    if path.startswith(SYSTEM):
        return None if selected(marks, system=True) else True
    if any(name.startswith(path) for name in SYSTEM):
        return None
    return None if selected(marks, system=False) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the directories and files in `SYSTEM`."""
    for item in items:
        if item.nodeid.startswith(SYSTEM):
            item.add_marker(pytest.mark.system)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are imported, and exempt what they make: it stays anyway."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_finish() -> None:
    """Shorten the text of a configuration of `transformers`.

    Loading a SAM 3 makes two hundred such texts, for messages of errors that it catches, in a third
    of the load's time.
    """
    if (configurations := sys.modules.get("transformers.configuration_utils")) is not None:
        configurations.PreTrainedConfig.__repr__ = object.__repr__


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


@pytest.fixture
def opened_files() -> Iterator[Opened]:
    """Tells which temporary files this process, which includes servers, has opened in the test."""
    with temporary_files() as found:
        yield found


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
