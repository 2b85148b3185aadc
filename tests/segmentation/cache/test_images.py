"""The store of image files by id."""

from __future__ import annotations

import pytest

from inference_server.segmentation.cache.images import ImageStore
from inference_server.segmentation.types import StoredImage


def image(size: int, digest: str = "d") -> StoredImage:
    return StoredImage(b"x" * size, digest)


def test_an_image_is_found_under_its_tenant_and_name() -> None:
    store = ImageStore(100)
    store.put("ann", "cat", image(10, "ann's"))
    store.put("bob", "cat", image(20, "bob's"))
    assert store.get("ann", "cat") == image(10, "ann's")
    assert store.get("bob", "cat") == image(20, "bob's")
    assert store.get("ann", "dog") is None
    assert store.get("eve", "cat") is None
    assert store.nbytes == 30


def test_the_image_used_longest_ago_goes_first_and_the_bound_is_exact() -> None:
    store = ImageStore(30)
    for name in ("a", "b", "c"):
        store.put("t", name, image(10))
    assert store.nbytes == 30
    assert store.get("t", "a") is not None
    store.put("t", "d", image(10))
    assert store.get("t", "b") is None
    assert [name for name in "acd" if store.get("t", name)] == ["a", "c", "d"]
    store.put("t", "e", image(11))
    assert store.nbytes == 21
    assert [name for name in "acde" if store.get("t", name)] == ["d", "e"]


def test_a_second_image_replaces_the_first_under_its_id() -> None:
    store = ImageStore(30)
    store.put("t", "a", image(10, "old"))
    store.put("t", "a", image(15, "new"))
    assert store.get("t", "a") == image(15, "new")
    assert store.nbytes == 15


def test_an_image_larger_than_the_store_is_not_stored_and_evicts_nothing() -> None:
    store = ImageStore(30)
    store.put("t", "a", image(30))
    store.put("t", "b", image(31))
    assert store.get("t", "b") is None
    assert store.get("t", "a") is not None


@pytest.mark.parametrize("size", [1, 100])
def test_without_capacity_nothing_is_stored(size: int) -> None:
    store = ImageStore(0)
    store.put("t", "a", image(size))
    assert store.get("t", "a") is None
    assert store.nbytes == 0


def test_clear_removes_everything() -> None:
    store = ImageStore(30)
    store.put("t", "a", image(10))
    store.clear()
    assert store.get("t", "a") is None
    assert store.nbytes == 0


def test_the_bytes_are_not_printed() -> None:
    assert "xxx" not in repr(image(10))


def test_a_forgotten_image_is_gone_and_requests_in_progress_do_not_bring_it_back() -> None:
    store = ImageStore(30)
    before = store.moment
    store.put("t", "a", image(10, "old"), since=before)
    assert store.forget("t", "a") == image(10, "old")
    assert store.forget("t", "a") is None
    assert store.nbytes == 0
    store.put("t", "a", image(10, "old"), since=before)
    assert store.get("t", "a") is None
    store.put("t", "b", image(10), since=before)
    assert store.get("t", "b") is not None
    store.put("t", "a", image(10, "new"), since=store.moment)
    assert store.get("t", "a") == image(10, "new")


def test_an_image_to_keep_is_not_forgotten() -> None:
    store = ImageStore(30)
    store.put("t", "a", image(10, "new"))
    assert store.forget("t", "a", keep="new") is None
    assert store.get("t", "a") == image(10, "new")
    assert store.forget("t", "a", keep="other") is not None
