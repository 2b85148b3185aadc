"""The pages state the sizes of cached embeddings."""

from __future__ import annotations

from benchmarks.sizes import CACHES_MB, DTYPES, run
from inference_server.segmentation.encoder import _DEFAULT_CACHE_MB
from inference_server.settings import MiB
from tests.api.pictures import Picture
from tests.api.serving import CONCEPT, SAM2_EMBED, VISUAL, RunningHere
from tests.readme import DOCS, ROOT


def test_sizes_equal_those_of_a_running_server(server: RunningHere, picture: Picture) -> None:
    """With one image for words, SAM 3's clicks and SAM 2, the cache grows by those sizes."""
    rows = run(small=True).tables[0].rows
    assert [row["cache dtype"] for row in rows] == [*DTYPES, *DTYPES, *DTYPES]
    cache = server.segmenter.encoder.embeddings
    dtype = server.segmenter.models.compute.cache_dtype_name
    before, images = cache.nbytes, len(cache)
    image = {"image": picture.sent, "image_id": "sizes"}
    for path, prompts in (
        (CONCEPT, {"prompts": [{"text": "circle"}]}),
        (VISUAL, {}),
        (SAM2_EMBED, {}),
    ):
        assert server.post(path, {**image, **prompts}).status_code == 200
    assert len(cache) == images + 3
    expected = sum(float(row["MB per image"]) * 1e6 for row in rows if row["cache dtype"] == dtype)
    assert cache.nbytes - before == round(expected)


def test_cache_sizes_are_the_defaults() -> None:
    assert (_DEFAULT_CACHE_MB["cpu"], _DEFAULT_CACHE_MB["cuda"]) == CACHES_MB
    row = run(small=True).tables[0].rows[0]
    assert row["images in 2048 MiB"] == 2048 * MiB // round(float(row["MB per image"]) * 1e6)


def test_the_pages_have_the_stored_figures() -> None:
    kept = (ROOT / "benchmarks" / "results" / "sizes.md").read_text()
    pages = (DOCS / "caching.md").read_text() + (DOCS / "sizing.md").read_text()
    # The pages word the headers differently.
    rows = [line for line in kept.splitlines() if line.startswith("| SAM ")]
    assert len(rows) > 3 * 5
    assert [row for row in rows if f"{row}\n" not in pages] == []
