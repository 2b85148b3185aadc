"""Examples of docs/clients.md that `tests/test_docs.py` does not run."""

from __future__ import annotations

import base64
import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from inference_server.demo import SAMPLE
from tests.api.pictures import iou
from tests.api.serving import Running
from tests.chromium import chromium
from tests.clients.conftest import PAGE, blocks, told
from tests.readme import Example, check_text, examples, run

PICTURE = PAGE.parent / "pictures" / "supervision.jpg"
MOST_BYTES = 100_000


@contextmanager
def shown(directory: Path) -> Iterator[str]:
    """A web server for a directory, with a different origin than the API."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    handler = partial(Handler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_browser_draws_what_it_is_told(server: Running, tmp_path: Path) -> None:
    ((code, output),) = blocks("html")
    (tmp_path / "index.html").write_text(told(code, server))
    shutil.copy(SAMPLE, tmp_path / "scene.jpg")
    problems: list[str] = []
    with shown(tmp_path) as origin, chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(origin)
        page.wait_for_function("() => document.getElementById('found').textContent")
        said = page.locator("#found").inner_text()
        drawn = page.evaluate("document.getElementById('picture').toDataURL('image/png')")
    assert not problems
    check_text(output, said + "\n")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn.partition(",")[2]))))
    before = np.asarray(Image.open(SAMPLE).convert("RGB"), np.int16)
    tinted = pixels[..., 2].astype(np.int16) - before[..., 2] > 60
    red = before[..., 0] > np.maximum(before[..., 1], before[..., 2]) + 70
    orange = before[..., 1] > before[..., 2] + 40
    assert iou(tinted, red & ~orange) > 0.85


def test_the_picture_is_what_its_example_draws(server: Running, tmp_path: Path) -> None:
    (example,) = (e for e in examples(PAGE.read_text()) if "supervision.jpg" in e.code)
    (tmp_path / "inference_server").symlink_to(SAMPLE.parents[1])
    run(Example(example.language, told(example.code, server)), server.url, tmp_path)
    made = np.asarray(Image.open(tmp_path / "supervision.jpg"), np.int16)
    kept = np.asarray(Image.open(PICTURE), np.int16)
    assert made.shape == kept.shape
    assert np.abs(made - kept).mean() < 4, f"copy the example's picture to {PICTURE}"
    assert np.abs(kept - np.asarray(Image.open(SAMPLE).convert("RGB"), np.int16)).mean() > 2
    assert PICTURE.stat().st_size < MOST_BYTES


def test_every_client_is_shown() -> None:
    text = PAGE.read_text()
    for language in ("bash", "python", "typescript", "html"):
        assert f"\n```{language}" in text
    for client in (
        *("inference_server_client", "inference-server-client", "inference_sdk", "segmind"),
        *("supervision", "pycocotools", "requests", "curl", "fetch("),
    ):
        assert any(client in code for code in text.split("```")[1::2]), client
