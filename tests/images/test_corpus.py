"""Each file of the hostile corpus is decoded or refused, at a bounded cost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.images.hostile_files import corpus, seeds

MAX_PIXELS = 50_000_000

# In its own process, to measure its memory apart from other tests.
_DECODE = """
import json, resource
from inference_server.errors import InferenceServerError
from inference_server.images import decode_image
from inference_server.images.headers import read_header
from inference_server.images.raster_file import RasterFile
from tests.images.hostile_files import corpus
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
files, found = corpus(), {}
decode_image(files["png"], max_pixels=10**6), RasterFile(files["tiff"]).valid
before = peak()
for name, data in files.items():
    try:
        pixels = decode_image(data, max_pixels=50_000_000)
        assert pixels.shape[:2] == read_header(data).upright_size
        _ = RasterFile(data).valid
        found[name] = pixels.shape
        del pixels
    except InferenceServerError as error:
        found[name] = error.message
print(json.dumps({"found": found, "grown": peak() - before}))
"""


@pytest.fixture(scope="module")
def decoded() -> Any:
    """Outcome and MiB of memory of each file."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", _DECODE],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not re.search(r"\wWarning:", done.stderr)
    return json.loads(done.stdout)


def test_the_corpus_has_many_files_per_format() -> None:
    assert len(corpus()) > 1500
    for name in seeds():
        assert sum(title.startswith(name) for title in corpus()) > 40
    assert sum(map(len, corpus().values())) < 40 << 20


def test_valid_files_are_decoded(decoded: Any) -> None:
    for name in seeds():
        assert decoded["found"][name] == [12, 16, 3]


def test_other_files_are_decoded_or_refused(decoded: Any) -> None:
    found = decoded["found"]
    assert found.keys() == corpus().keys()
    for name, outcome in found.items():
        if isinstance(outcome, str):
            assert outcome.startswith("Could not load input image. Cause: "), name
            assert len(outcome) < 400
        else:
            assert outcome[0] * outcome[1] <= MAX_PIXELS
            assert outcome[2] == 3
    refused = {name for name, outcome in found.items() if isinstance(outcome, str)}
    for name in (
        *("svg", "svg-packed", "xml-bomb", "pdf", "postscript", "imagemagick", "heic", "nothing"),
        *("numpy", "pickle", "zip", "ico", "psd", "jpeg2000", "mp4", "jpeg-in-html", "png-in-text"),
        *("png-bomb-10000", "png-bomb-wide", "png-40000", "jpeg-65000-65000", "gif-65535"),
        *("png-too-little", "bmp-30000", "tiff-terapixel", "webp-canvas", "png-chunks"),
        *("jpeg-segments", "jpeg-scans", "gif-comments"),
    ):
        assert name in refused, name
    for name in seeds():
        cut = {f"{name}-first-{length}" for length in (1, 4, 11, 12, 20)}
        assert cut <= refused
    # Some damaged files are still valid images; most are not.
    assert len(refused) > len(found) // 3
    assert len(found) - len(refused) > 100


def test_memory_is_bounded(decoded: Any) -> None:
    """The largest accepted image of the corpus has 25 million pixels: 75 MB."""
    assert decoded["grown"] < 400
