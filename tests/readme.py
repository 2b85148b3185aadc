"""Find, run and update the examples in README.md and docs/.

Every block of `bash`, `python` or `javascript` is an example. The examples of a page run in order,
in one temporary directory that contains the repository. A block of `json` or `text` that follows an
example is its expected output. In an output, `…` stands for more of the same or for text that
differs between runs; long numbers are rounded.

A block whose title is a file name is written to that file before the examples run; it is not run
itself. Any other title is for readers only. A comment on the line before a block excludes the block
from the tests. Readers do not see it:

    ```python title="my_server.py"

    <!-- not tested: it needs Docker -->
    ```bash title="Build the image"

    <!-- tested by: tests/e2e/test_clients.py -->
    ```python

The tables of settings and of request fields are generated from the code.

    python -m tests.readme                 run all pages; update the outputs and the tables
    python -m tests.readme docs/keys.md    the same for the given pages
    python -m tests.readme --settings      update the tables, and the settings in deploy/, only
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as coco
from pydantic import BaseModel

from inference_server.settings import Settings
from inference_server.settings.types import variable_of
from tests.deploy import generated
from tests.environment import clean_environment

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
SETTINGS_PAGE = DOCS / "settings.md"
SCORE_TOLERANCE = 0.03
"""Largest difference of a printed score from a real one: bfloat16 and other processors change the
second decimal."""

LISTENS = "127.0.0.1:9001"
"""Host and port of the server in the examples."""
KEY = "my-key"
MORE = "…"
LEAST_IOU = 0.98
GROUPS = {
    "host": "Serving",
    "auth": "API keys and CORS",
    "sam3_weights": "Models",
    "matmul_precision": "GPUs",
    "embedding_cache_mb": "Caches",
    "max_connections": "Connections",
    "max_body_mb": "Request limits",
    "fetch_timeout": "Images by URL",
    "request_timeout": "Queues, batches and shutdown",
    "data_dir": "Jobs",
    "public_url": "Reverse proxy",
    "samgeo_version": "samgeo API",
    "label_studio_url": "Label Studio",
    "cluster_address": "Cluster",
}
"""Title of each group of settings, by the first setting of the group, in order."""

NAMES = list(Settings.model_fields)
"""All settings, those of a cluster last."""

_LANGUAGES = ("bash", "python", "javascript")
_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>(?:not tested|tested by)[^\n]*) -->\n)?"
    r'(?P<opening>```(?P<language>\w+)(?: title="(?P<title>[^"\n]+)")?)\n'
    r"(?P<content>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_ANY_FENCE = re.compile(r"^ *```.+$", re.MULTILINE)
_ANY_MARK = re.compile(r"<!--\s*(?:not (?:tested|run)|(?:tested|run) by)", re.IGNORECASE)
_FILE = re.compile(r"\w[\w-]*\.\w+")
_MARK = re.compile(r"not tested: \w.{8,}|tested by: (?P<test>tests/\S+\.py)")
_SETTINGS = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)
_FIELDS = re.compile(
    r"(?P<begin><!-- fields (?P<module>[\w.]+):(?P<model>\w+) -->\n).*?(?=<!-- /fields -->)",
    re.DOTALL,
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WIDTH = 96
_START_SECONDS = 240
_RUN_SECONDS = 240


@dataclass(frozen=True)
class Example:
    """A block of code and the block with its expected output.

    Attributes:
        language: Language of the code: `bash`, `python` or `javascript`.
        code: The code.
        output: The expected output; None if the page shows none.
        kind: Language of the output block: `json` or `text`.
        span: Start and end of the output in the page's text, in characters.
    """

    language: str
    code: str
    output: str | None = None
    kind: str = "text"
    span: tuple[int, int] = (0, 0)

    @property
    def title(self) -> str:
        """Short name: the endpoint, or the first import."""
        found = re.search(
            r"/sam\d/\w+|/segment/\w+|/models|(?<=from )\w+|(?<=import )requests", self.code
        )
        return f"{self.language} {found.group() if found else self.code.splitlines()[0]}"


def pages() -> list[Path]:
    """Return README.md and all pages of docs/."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def page_name(page: Path) -> str:
    """Return the path of a page, relative to the repository."""
    return page.relative_to(ROOT).as_posix()


def examples(text: str) -> list[Example]:
    """Return the examples of a page, in order."""
    blocks = list(_FENCE.finditer(text))
    found = []
    for code, output in pairwise([*blocks, None]):
        if code is None or code["language"] not in _LANGUAGES or code["mark"] or _is_file(code):
            continue
        language, source = code["language"], code["content"]
        if output is not None and output["language"] in ("json", "text") and not _is_file(output):
            span = output.span("content")
            found.append(Example(language, source, output["content"], output["language"], span))
        else:
            found.append(Example(language, source))
    return found


def files(text: str) -> dict[str, str]:
    """Return the contents of the file blocks of a page, by file name."""
    return {block["title"]: block["content"] for block in _FENCE.finditer(text) if _is_file(block)}


def _is_file(block: re.Match[str]) -> bool:
    """Whether a block's title is a file name."""
    return _FILE.fullmatch(block["title"] or "") is not None


def check_marks(text: str) -> None:
    """Check the fences of a page, and the comments that exclude blocks from the tests.

    Raises:
        AssertionError: A fence has an unknown form, a comment is not directly before a block of
            code, or it names neither a reason nor an existing test.
    """
    blocks = list(_FENCE.finditer(text))
    known = [block["opening"] for block in blocks]
    assert _ANY_FENCE.findall(text) == known, "a fence is ``` with a language, optionally a title"
    marked = [block for block in blocks if block["mark"]]
    assert len(_ANY_MARK.findall(text)) == len(marked), "a mark is on the line before a fence"
    for block in marked:
        found = _MARK.fullmatch(block["mark"])
        assert found, f"{block['mark']!r} names neither a reason nor a test"
        assert block["language"] in _LANGUAGES, f"{block['language']} is never run"
        assert found["test"] is None or (ROOT / found["test"]).exists(), found["test"]


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[str, str]]:
    """Run a server like `make serve`, on a free port, and wait until it is ready.

    Args:
        arguments: Additional options of `serve`.
        environment: Additional environment variables.

    Yields:
        (URL of the server, its log so far).
    """
    clean = clean_environment()
    data = tempfile.TemporaryDirectory()
    clean["INFERENCE_DATA_DIR"] = data.name
    clean["INFERENCE_LOG_FORMAT"] = "text"
    process = subprocess.Popen(
        [sys.executable, "-m", "inference_server.cli", "serve", "--port", "0", *arguments],
        cwd=ROOT,
        env=clean | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    printed: list[str] = []
    reader = threading.Thread(target=printed.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _is_ready(printed):
            said = "".join(printed)
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The server did not get ready:\n{said}")
            time.sleep(0.1)
        said = "".join(printed)
        address = re.search(r"on (http://\S+)", said)
        assert address, said
        yield address[1], said
    finally:
        process.terminate()
        process.wait(120)
        reader.join(10)
        process.stderr.close()
        data.cleanup()


def _is_ready(printed: Sequence[str]) -> bool:
    """Whether a server has loaded its models and listens, which implies an open database."""
    address = re.search(r"on http://(\S+):(\d+)\s", "".join(printed))
    if address is None or not any(line.rstrip().endswith(" Ready") for line in printed):
        return False
    try:
        socket.create_connection((address[1], int(address[2])), 10).close()
    except OSError:
        return False
    return True


@contextmanager
def workplace() -> Iterator[Path]:
    """Create a temporary directory with links to the repository, where examples run."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for entry in ROOT.iterdir():
            if entry.name not in (".git", ".inference-server"):
                (directory / entry.name).symlink_to(entry)
        yield directory


def run(
    example: Example, address: str, directory: Path, environment: Mapping[str, str] | None = None
) -> str:
    """Run an example and return its output.

    Args:
        example: The example.
        address: URL of the running server; replaces the one in the code.
        directory: Working directory.
        environment: Additional environment variables.

    Raises:
        AssertionError: The example exits with an error, or does not end.
    """
    code = example.code.replace(LISTENS, address.removeprefix("http://"))
    command = {
        "bash": ["bash", "-euo", "pipefail", "-c", code],
        "python": [sys.executable, "-c", code],
        "javascript": ["node", "--input-type=module", "-e", code],
    }[example.language]
    clean = clean_environment()
    clean["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
    # As if the client were installed. Commands are those of this tree, not of another installation.
    clean["PYTHONPATH"] = os.pathsep.join([str(ROOT / "clients" / "python"), str(ROOT)])
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=clean | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        told = f"{error.stdout or b''!r}\n{error.stderr or b''!r}"
        raise AssertionError(f"{example.code}\nran for {_RUN_SECONDS} s\n{told}") from error
    assert done.returncode == 0, f"{example.code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def outputs(
    page: Path, address: str, environment: Mapping[str, str] | None = None
) -> list[str | AssertionError]:
    """Run the examples of a page in order; return the output or the failure of each.

    Examples use the results of those before, so none runs after a failure.
    """
    results: list[str | AssertionError] = []
    text = page.read_text()
    with workplace() as directory:
        for name, content in files(text).items():
            (directory / name).write_text(content)
        for example in examples(text):
            if results and isinstance(results[-1], AssertionError):
                results.append(AssertionError("not run: an earlier example of the page failed"))
                continue
            try:
                results.append(run(example, address, directory, environment))
            except AssertionError as error:
                results.append(error)
    return results


@contextmanager
def documented_server() -> Iterator[tuple[str, dict[str, str]]]:
    """Run the server that the examples use.

    Yields:
        (URL of the server, environment variables that point commands to its data).
    """
    with tempfile.TemporaryDirectory() as data:
        environment = {"INFERENCE_DATA_DIR": data}
        with serving(INFERENCE_API_KEYS=KEY, **environment) as (address, _):
            yield address, environment


def shortened(value: Any) -> Any:
    """Return a response with rounded numbers and shortened polygons."""
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, list):
        if len(value) > 4 and all(isinstance(item, list) for item in value):
            value = [*value[:4], MORE]
        return [shortened(item) for item in value]
    if isinstance(value, dict):
        # Visual responses contain the same masks twice.
        twice = {"predictions", "prompt_results"} <= value.keys()
        return {
            key: [MORE] if twice and key == "prompt_results" else shortened(item)
            for key, item in value.items()
        }
    return value


def written(value: Any, indent: str = "") -> str:
    """Format JSON; values that fit on one line are written on one line."""
    flat = json.dumps(value, ensure_ascii=False).replace(f'"{MORE}"', MORE)
    if len(indent + flat) <= _WIDTH or not isinstance(value, list | dict):
        return flat
    deeper = indent + "  "
    if isinstance(value, list):
        inner = [written(item, deeper) for item in value]
        left, right = "[]"
    else:
        inner = [f'"{key}": {written(item, deeper)}' for key, item in value.items()]
        left, right = "{}"
    return f"{left}\n{deeper}" + f",\n{deeper}".join(inner) + f"\n{indent}{right}"


def parsed(output: str) -> Any:
    """Parse JSON from a page, in which `MORE` marks omissions."""
    return json.loads(re.sub(rf"(?<!\"){MORE}(?!\")", f'"{MORE}"', output))


def check(printed: Any, real: Any, field: str = "") -> None:
    """Compare JSON of a page with a real response: equal structure, close scores and masks.

    Raises:
        AssertionError: They differ.
    """
    if isinstance(printed, dict):
        assert printed.keys() == real.keys(), field
        if "counts" in printed:
            assert printed["size"] == real["size"]
            assert coco.iou([printed], [real], [False])[0, 0] >= LEAST_IOU
            return
        for key, value in printed.items():
            check(value, real[key], key)
    elif printed == MORE:
        assert real
    elif field == "masks":  # polygons start at another point if one pixel differs
        assert real
        assert all(len(point) == 2 for polygon in real for point in polygon)
    elif isinstance(printed, list):
        if printed and printed[-1] == MORE:
            assert len(real) >= len(printed), field
            printed = printed[:-1]
        else:
            assert len(real) == len(printed), field
        for one, other in zip(printed, real, strict=False):
            check(one, other, field)
    elif field == "time":
        assert real > 0
    elif field in ("confidence", "score"):
        assert real == pytest.approx(printed, abs=SCORE_TOLERANCE)
    else:
        assert real == printed, field


def check_text(printed: str, real: str) -> None:
    """Compare a text of a page with a real output: equal words, close numbers.

    `…` matches any text within a line; a line that consists of `…` matches any lines.

    Raises:
        AssertionError: They differ.
    """
    pattern = re.escape(_NUMBER.sub("0", printed)).replace("0", f"({_NUMBER.pattern})")
    pattern = re.sub(rf"^{MORE}\\?\n", r"(?:.*\n)*?", pattern, flags=re.MULTILINE)
    found = re.fullmatch(pattern.replace(MORE, ".*?"), real)
    assert found, f"on the page:\n{printed}\nreal output:\n{real}"
    for number, expected in zip(found.groups(), _NUMBER.findall(printed), strict=True):
        # Numbers below 1 are scores.
        tolerance = SCORE_TOLERANCE if 0 < abs(float(expected)) < 1 else 0.1
        assert float(number) == pytest.approx(float(expected), rel=0.02, abs=tolerance)


def check_output(example: Example, output: str) -> None:
    """Compare the output of an example with the expected output, if the page shows one.

    Raises:
        AssertionError: They differ.
    """
    if example.output is None:
        return
    if example.kind == "json":
        check(parsed(example.output), json.loads(output))
    else:
        check_text(example.output, output)


def printed_form(example: Example, output: str) -> str:
    """Return the text that a page shows for an output."""
    if example.kind == "json":
        return written(shortened(json.loads(output))) + "\n"
    return output


def settings_tables() -> str:
    """Return all settings as Markdown: a heading and a table per group."""
    text = ""
    for name in NAMES:
        field = Settings.model_fields[name]
        if name in GROUPS:
            text += f"\n## {GROUPS[name]}\n\n| variable | default | meaning |\n|---|---|---|\n"
        text_of = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        default = f"`{text_of}`" if text_of != "" else ""
        text += f"| `{variable_of(name)}` | {default} | {field.description} |\n"
    return text + "\n"


def fields_table(model: type[BaseModel]) -> str:
    """Return the fields of a request as a Markdown table, from its JSON schema."""
    schema = model.model_json_schema()
    text = "\n| field | default | meaning |\n|---|---|---|\n"
    for name, field in schema["properties"].items():
        if name == "api_key":
            continue  # part of every request; described once, in answers.md
        default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
        if name in schema.get("required", ()):
            default = "needed"
        named = schema.get("$defs", {}).get(field.get("$ref", "").rpartition("/")[2], {})
        meaning = field["description"]
        values = field.get("enum") or named.get("enum", ())
        if any(f"`{value}`" not in meaning for value in values):
            meaning += f" One of {', '.join(f'`{value}`' for value in values)}."
        meaning = meaning.replace("|", "\\|")
        text += f"| `{name}` | {default} | {meaning} |\n"
    return text + "\n"


def with_tables(text: str) -> str:
    """Return a page with its tables of settings and fields regenerated from the code."""

    def fields(found: re.Match[str]) -> str:
        model = getattr(import_module(found["module"]), found["model"])
        return found["begin"] + fields_table(model)

    return _FIELDS.sub(fields, _SETTINGS.sub(lambda _: settings_tables(), text))


def update(page: Path, address: str, environment: Mapping[str, str]) -> int:
    """Run a page and update the outputs that no longer match.

    Returns:
        Number of updated outputs.

    Raises:
        AssertionError: An example fails.
    """
    text = page.read_text()
    found = list(zip(examples(text), outputs(page, address, environment), strict=True))
    changed = 0
    for example, output in reversed(found):
        if isinstance(output, AssertionError):
            raise output
        try:
            check_output(example, output)
        except AssertionError:
            begin, end = example.span
            text = text[:begin] + printed_form(example, output) + text[end:]
            changed += 1
    page.write_text(text)
    return changed


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Run and update the examples in README.md and docs/."
    )
    parser.add_argument("--settings", action="store_true", help="update the tables only")
    parser.add_argument("pages", nargs="*", type=Path, help="pages to run; all by default")
    arguments = parser.parse_args()
    for page in pages():
        text = page.read_text()
        if with_tables(text) != text:
            page.write_text(with_tables(text))
            print(f"{page_name(page)}: tables updated")
    for path in generated.write():
        print(f"{path.relative_to(ROOT)}: settings updated")
    if arguments.settings:
        return
    with documented_server() as (address, environment):
        for page in [path.resolve() for path in arguments.pages] or pages():
            count = len(examples(page.read_text()))
            changed = update(page, address, environment) if count else 0
            print(f"{page_name(page)}: {count} examples, {changed} outputs updated")


if __name__ == "__main__":
    main()
