"""README.md and docs/: examples run and print the shown output, and links are valid."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from inference_server.settings import Settings
from inference_server.settings.types import variable_of
from tests import readme
from tests.readme import (
    MORE,
    ROOT,
    Example,
    check,
    check_marks,
    check_output,
    check_text,
    documented_server,
    examples,
    files,
    outputs,
    page_name,
    pages,
    with_tables,
)

PAGES = pages()
RUNS = [
    pytest.param(page, index, id=f"{page_name(page)} {index} {example.title}")
    for page in PAGES
    for index, example in enumerate(examples(page.read_text()))
]
Outputs = Callable[[Path], list[str | AssertionError]]


@pytest.fixture(scope="module")
def printed() -> Iterator[Outputs]:
    """The output of a page's examples, which run when it is first requested."""
    with documented_server() as (address, environment):
        yield cache(lambda page: outputs(page, address, environment))


@pytest.mark.parametrize(("page", "index"), RUNS)
def test_an_example_prints_the_shown_output(page: Path, index: int, printed: Outputs) -> None:
    output = printed(page)[index]
    if isinstance(output, AssertionError):
        raise output
    check_output(examples(page.read_text())[index], output)


def test_an_example_that_does_not_end_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once: the examples of a page do not run again for each of their tests."""
    monkeypatch.setattr(readme, "_RUN_SECONDS", 0.1)
    page = tmp_path / "page.md"
    page.write_text("```bash\nexec sleep 600\n```\n\n```bash\ntouch made\n```\n")
    output, later = outputs(page, "http://127.0.0.1:9")
    assert isinstance(output, AssertionError)
    assert "ran for 0.1 s" in str(output)
    assert isinstance(later, AssertionError)
    assert "not run" in str(later)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_code_that_is_not_run_has_a_reason(page: Path) -> None:
    check_marks(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text()
    assert text == with_tables(text), "run `python -m tests.readme --settings`"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_named_settings_exist(page: Path) -> None:
    named = set(re.findall(r"\bINFERENCE_[A-Z0-9_]*[A-Z0-9]\b", page.read_text()))
    other = {
        "INFERENCE_ERROR",  # an error code of X-AnyLabeling
        "INFERENCE_WARNINGS_DISABLED",  # a variable of `inference-sdk`
    }
    assert named - other <= {variable_of(name) for name in Settings.model_fields}


def anchors(text: str) -> set[str]:
    """Return the anchors of a page."""
    whole = re.sub(r'^--8<-- "(.+)"$', lambda part: (ROOT / part[1]).read_text(), text, flags=re.M)
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", whole, flags=re.M | re.S), re.M)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_are_valid(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), target
        if anchor:
            assert anchor in anchors(to.read_text()), target


@pytest.mark.parametrize(
    "text",
    [
        "<!-- not tested: -->\n```bash\nx\n```\n",
        "<!-- not tested: no -->\n```bash\nx\n```\n",
        "<!-- Not tested: it needs Docker -->\n```bash\nx\n```\n",
        "<!-- not tested: it needs Docker -->\n\n```bash\nx\n```\n",
        "<!-- not tested: it needs Docker -->\n```yaml\nx: 1\n```\n",
        "<!-- tested by: tests/nowhere.py -->\n```bash\nx\n```\n",
        "```\nx\n```\n```bash {.norun}\nx\n```\n",
    ],
)
def test_a_block_without_a_valid_reason_for_not_running_is_refused(text: str) -> None:
    with pytest.raises(AssertionError):
        check_marks(text)


def test_an_example_is_code_with_its_output() -> None:
    text = (
        "```bash\nmake\n```\n\n"
        '```bash title="Ask"\ncurl x\n```\nprints\n```json title="Response"\n{}\n```\n'
        '<!-- not tested: it needs Docker -->\n```bash title="Build"\ndocker\n```\n'
        "```text\nno\n```\n"
        "<!-- tested by: tests/test_docs.py -->\n```bash\nelsewhere\n```\n"
        '```python\n1\n```\n```json title="a.json"\n{}\n```\n'
    )
    check_marks(text)
    found = examples(text)
    assert files(text) == {"a.json": "{}\n"}
    assert [(e.code, e.output) for e in found] == [
        ("make\n", None),
        ("curl x\n", "{}\n"),
        ("1\n", None),
    ]
    assert text[slice(*found[1].span)] == "{}\n"


def test_a_failing_example_is_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\necho one\n```\n```text\ntwo\n```\n```bash\nfalse\n```\n")
    one, failed = outputs(page, "http://127.0.0.1:1")
    assert one == "one\n"
    assert isinstance(failed, AssertionError)
    with pytest.raises(AssertionError, match="two"):
        check_output(examples(page.read_text())[0], one)


def test_different_masks_are_reported() -> None:
    """A difference of one pixel is accepted; larger ones are not."""
    plane = np.zeros((40, 40), np.uint8, order="F")
    plane[5:35, 5:35] = 1
    near, far = plane.copy(order="F"), plane.copy(order="F")
    near[5, 5], far[5:10, 5:35] = 0, 0

    def answer(of: Any, *, confidence: float = 0.9) -> dict[str, Any]:
        encoded = coco.encode(of)
        rle = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        return {"predictions": [{"confidence": confidence, "masks": rle}], "time": 0.1}

    check(answer(plane), answer(near))
    check({"a": [[1, 2], MORE]}["a"], [[1, 2], [3, 4]])
    check({"key": MORE}, {"key": "inf_4"})
    with pytest.raises(AssertionError):
        check(answer(plane), answer(far))
    with pytest.raises(AssertionError):
        check(answer(plane), answer(plane, confidence=0.86))
    with pytest.raises(AssertionError):
        check(answer(plane), {"predictions": [], "time": 0.1})


def test_different_text_is_reported() -> None:
    check_text("red 0.91, 2 of 3\n", "red 0.9, 2 of 3\n")
    check_text("key …\n…\nend 2\n", "key inf_4f\nline 7\nline 8\nend 2\n")
    for printed, real in (
        ("red 2\n", "red 3\n"),
        ("red 2\n", "red 2\nblue 2\n"),
        ("…\nend 2\n", "line 7\nend 3\n"),
        ("key …\n", "key 1\nkey 2\n"),
    ):
        with pytest.raises(AssertionError):
            check_text(printed, real)


def test_an_example_is_an_example() -> None:
    assert examples("```bash\ntrue\n```\n") == [Example("bash", "true\n")]
