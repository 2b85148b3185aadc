"""The README's examples: finding them, running them, and writing their output anew.

An example is a block of `bash` or `python` whose next block is of `json` or `text`: its output.
In the output `…` stands for more of the same, and long numbers are rounded.

    python -m tests.readme    runs all of them, and rewrites the outputs and the settings table
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from inference_server.settings import Settings, variable_of

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ADDRESS = "http://127.0.0.1:9001"
KEY = "my-key"
MORE = "…"

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)
_WIDTH = 96
_START_SECONDS = 240


@dataclass(frozen=True)
class Example:
    """A block of code and the block with its output.

    Attributes:
        language: of the code: `bash` or `python`.
        code: as a reader pastes it.
        output: as printed in the README.
        kind: of the output: `json` or `text`.
        span: where the output stands in the README.
    """

    language: str
    code: str
    output: str
    kind: str
    span: tuple[int, int]

    @property
    def title(self) -> str:
        """A short name: where the request goes, or the first import."""
        found = re.search(
            r"/sam\d/\w+|/segment/\w+|/models|(?<=from )\w+|(?<=import )requests", self.code
        )
        return f"{self.language} {found.group() if found else self.code.splitlines()[0]}"


def examples(text: str) -> list[Example]:
    """The examples of a README, in their order."""
    blocks = list(_FENCE.finditer(text))
    return [
        Example(code[1], code[2], output[2], output[1], output.span(2))
        for code, output in pairwise(blocks)
        if code[1] in ("bash", "python") and output[1] in ("json", "text")
    ]


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[str, str]]:
    """A server as `make serve` starts it, on a free port, ready.

    Args:
        arguments: more options of `serve`.
        environment: more environment variables.

    Yields:
        (its address, what it has printed).
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("INFERENCE_")}
    data = tempfile.TemporaryDirectory()
    clean["INFERENCE_DATA_DIR"] = data.name
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
        while not any(line.rstrip().endswith(" Ready") for line in printed):
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
        process.wait(60)
        reader.join(10)
        process.stderr.close()
        data.cleanup()


def run(example: Example, address: str) -> str:
    """What an example prints when it is pasted in the repository, with the server at `address`."""
    code = example.code.replace(ADDRESS, address)
    command = ["bash", "-euo", "pipefail", "-c", code]
    if example.language == "python":
        command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{example.code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shortened(value: Any) -> Any:
    """An answer with rounded numbers and the first points of polygons."""
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, list):
        if len(value) > 4 and all(isinstance(item, list) for item in value):
            value = [*value[:4], MORE]
        return [shortened(item) for item in value]
    if isinstance(value, dict):
        # Visual answers say the same twice.
        twice = {"predictions", "prompt_results"} <= value.keys()
        return {
            key: [MORE] if twice and key == "prompt_results" else shortened(item)
            for key, item in value.items()
        }
    return value


def written(value: Any, indent: str = "") -> str:
    """JSON with whatever fits on a line on one line."""
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
    """Printed JSON, with `MORE` where something was left out."""
    return json.loads(re.sub(rf"(?<!\"){MORE}(?!\")", f'"{MORE}"', output))


def printed_form(example: Example, output: str) -> str:
    """What the README prints of an example's output."""
    if example.kind == "json":
        return written(shortened(json.loads(output))) + "\n"
    return output


def settings_table() -> str:
    """All settings as a Markdown table."""
    rows = ["| variable | default | meaning |\n|---|---|---|\n"]
    for name, field in Settings.model_fields.items():
        default = f"`{field.default}`" if field.default != "" else ""
        rows.append(f"| `{variable_of(name)}` | {default} | {field.description} |\n")
    return "".join(rows)


def with_settings_table(text: str) -> str:
    """A README whose settings table is that of the code."""
    return _TABLE.sub(lambda _: settings_table(), text)


def main() -> None:
    """Rewrite the README."""
    text = with_settings_table(README.read_text())
    with serving(INFERENCE_API_KEYS=KEY) as (address, _):
        outputs = [(e, printed_form(e, run(e, address))) for e in examples(text)]
    for example, output in reversed(outputs):
        begin, end = example.span
        text = text[:begin] + output + text[end:]
    README.write_text(text)
    print(f"README.md: {len(outputs)} examples, {len(Settings.model_fields)} settings")


if __name__ == "__main__":
    main()
