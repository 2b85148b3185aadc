"""Code snippets with hostile file names, texts, ids and keys: they are data, never code."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference_server.playground import assets

SNIPPETS = Path(assets.__file__).with_name("static") / "snippets.js"
URL = "http://127.0.0.1:9/sam3/concept_segment"
CANARY = "PWNED"

HOSTILE = {
    "here-document": f"a\nEND\ntouch {CANARY}\n.png",
    "here-document-at-the-start": f"END\ntouch {CANARY}\n.png",
    "single-quote": f"'; touch {CANARY}; '",
    "escaped-quote": f"\\'; touch {CANARY}; \\'",
    "quotes-and-a-line": f"'\n\"; touch {CANARY}\n\"'.png",
    "substitution": f"$(touch {CANARY})",
    "backquotes": f"`touch {CANARY}`",
    "in-double-quotes": f'"; $(touch {CANARY}); "',
    "after-a-backslash": f"\\$(touch {CANARY})\\",
    "pipe": f"| touch {CANARY} #",
    "option": "-rf",
    "option-and-a-line": "-v\nx",
    "printf": "%s%n%d\n\\0101",
    "history": "!!",
    "file-of-curl": "@snippets.js",
    "variable": "$image ${HOME}",
    "carriage-return": f"a\r\ntouch {CANARY}\r.png",
    "end-of-bracketed-paste": f"\x1b[201~touch {CANARY}\n",
    "control-characters": "\x01\x03\x04\x08\t\x1b\x7f\x9b.png",
    "line-separators": f"a\u2028touch {CANARY}\u2029\x85b\x0bc\x0cd",
    "direction": "gnp.\u202eexe\u2066",
    "invisible": "a\u200bb\U000e0041c\ufeff",
    "python": f'""" + __import__("os").system("touch {CANARY}") + """',
    "javascript": f"`+require('fs').writeFileSync('{CANARY}','')+`${{1}}",
    "html": f"</code><script>touch {CANARY}</script>",
    "json": '"}, "x": {"y": "',
    "plain": "it's 🙂 é – ✓.png",
}

# Each records the request instead of sending it, as {"key", "body"} on stdout.
_CURL = """#!{python}
import json, sys
key = [value for value in sys.argv if value.startswith("x-api-key: ")]
assert sys.argv.count({url!r}) == 1, sys.argv
print(json.dumps({{"key": key[0][11:], "body": json.load(sys.stdin)}}))
"""
_REQUESTS = """
import json

class Response:
    def raise_for_status(self): pass
    def json(self): return self

def post(url, *, headers, json, timeout):
    assert url == {url!r}
    response = Response()
    response.told = {{"key": headers["x-api-key"], "body": json}}
    Response.__repr__ = lambda self: __import__("json").dumps(self.told)
    return response
"""
_FETCH = """
globalThis.fetch = async (url, {{headers, body}}) => {{
  if (url !== {url!r}) throw new Error(url);
  const told = {{key: headers["x-api-key"], body: JSON.parse(body)}};
  return {{ok: true, json: async () => told}};
}};
"""


@pytest.fixture(autouse=True)
def _node() -> None:
    assert shutil.which("node"), "Node is missing"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory to run snippets in, beside their tools."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "curl").write_text(_CURL.format(python=sys.executable, url=URL))
    (tools / "curl").chmod(0o755)
    (tools / "requests.py").write_text(_REQUESTS.format(url=URL))
    (tools / "fetch.mjs").write_text(_FETCH.format(url=URL))
    place = tmp_path / "place"
    place.mkdir()
    return place


def snippets(**values: Any) -> dict[str, str]:
    """The code by language."""
    program = (
        f"import {{LANGUAGES}} from {json.dumps(SNIPPETS.as_uri())};"
        f"const values = {json.dumps(values)};"
        "const entries = Object.entries(LANGUAGES).map(([name, write]) => [name, write(values)]);"
        "console.log(JSON.stringify(Object.fromEntries(entries)));"
    )
    command = ["node", "--input-type=module", "-e", program]
    found: dict[str, str] = json.loads(subprocess.check_output(command, text=True))
    assert set(found) == {"curl", "python", "javascript"}
    return found


def run(command: list[str], place: Path, code: str) -> Any:
    """Run a snippet; return the request that it would have sent."""
    tools = place.parent / "tools"
    path = f"{tools}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        [*command, code],
        cwd=place,
        env={"PATH": path, "PYTHONPATH": str(tools), "HOME": str(place), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (place / CANARY).exists(), f"a command was run:\n{code}"
    assert done.returncode == 0, f"{done.stderr}\n{code}"
    return json.loads(done.stdout)


def requests_of(place: Path, **values: Any) -> list[Any]:
    """The request of every snippet, with curl in each shell there is."""
    code = snippets(url=URL, **values)
    fetch = (place.parent / "tools" / "fetch.mjs").as_uri()
    shells = [shell for shell in ("bash", "dash", "zsh", "ksh") if shutil.which(shell)]
    assert "bash" in shells
    return [
        *(run([shell, "-c"], place, code["curl"]) for shell in shells),
        run([sys.executable, "-c"], place, code["python"]),
        run(["node", f"--import={fetch}", "--input-type=module", "-e"], place, code["javascript"]),
    ]


def is_name(text: str) -> bool:
    return "/" not in text and "\0" not in text and not text.endswith("\n")


@pytest.mark.parametrize("name", [text for text in HOSTILE.values() if is_name(text)], ids=ascii)
def test_a_file_name_is_a_file_name(place: Path, name: str) -> None:
    (place / name).write_bytes(b"the image")
    sent = base64.b64encode(b"the image").decode()
    body = {"prompts": [{"type": "text", "text": "red"}], "output_prob_thresh": 0.5}
    for request in requests_of(place, body=body, file=name, id="x", key="k"):
        assert request["body"] == {"image": {"type": "base64", "value": sent}, **body}


@pytest.mark.parametrize("file", ["a.png", None], ids=["file", "id"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_texts_and_ids_are_sent_as_they_are(place: Path, text: str, file: str | None) -> None:
    text += "\0"
    (place / "a.png").write_bytes(b"the image")
    prompts = [{"text": text, "boxes": [[1, 2.5]]}]
    body = {"prompts": prompts, text: text, "format": None, "on": True}
    for request in requests_of(place, body=body, file=file, id=text, key="k"):
        image = request["body"].pop("image", None)
        identity = request["body"].pop("image_id", None)
        assert (image is None, identity) == ((True, text) if file is None else (False, None))
        assert request["body"] == body


def is_header(text: str) -> bool:
    return text.isprintable() and text.isascii()


@pytest.mark.parametrize("key", [text for text in HOSTILE.values() if is_header(text)], ids=ascii)
def test_keys_are_sent_as_they_are(place: Path, key: str) -> None:
    for request in requests_of(place, body={"prompts": []}, file=None, id="x", key=key):
        assert request["key"] == key


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_no_hidden_character_is_in_the_code(text: str) -> None:
    """A terminal may act on them when they are pasted, and nobody sees them."""
    body = {"prompts": [{"text": text}]}
    for file in (text, None):
        code = snippets(url=URL, body=body, file=file, id=text, key=text)
        for lines in code.values():
            assert all(line.isprintable() for line in lines.split("\n")), ascii(lines)
        # Interactive shells expand it, even where scripts do not.
        assert "!" not in code["curl"].replace("'x-api-key: !!'", "").replace("< '!!'", "")
