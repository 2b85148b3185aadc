"""The mask input cache: which earlier result a prompt refines, and how many are cached."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from inference_server.engines.base import VisualPrompt
from inference_server.segmentation.cache.mask_inputs import MaskInputCache
from inference_server.segmentation.types import ImageKey

KEY = ImageKey("tenant", "sam2/demo", "id:a")
A, B, C = (1.0, 2.0, 1), (3.0, 4.0, 0), (5.0, 6.0, 1)
BOX = (0.0, 0.0, 9.0, 9.0)
PLANE = 64
"""Bytes of one `plane`."""


def visual_prompt(
    *points: tuple[float, float, int], box: tuple[float, float, float, float] | None = None
) -> VisualPrompt:
    return VisualPrompt(
        np.array([point[:2] for point in points], np.float32).reshape(-1, 2),
        np.array([point[2] for point in points], np.int64),
        None if box is None else np.array(box, np.float32),
    )


def plane(value: float = 0) -> NDArray[np.float32]:
    return np.full((4, 4), value, np.float32)


def found(cache: MaskInputCache, prompt: VisualPrompt, key: ImageKey = KEY) -> float | None:
    """The value of the logits that a prompt refines, or None."""
    logits = cache.find(key, prompt)
    return None if logits is None else float(logits[0, 0])


def test_a_prompt_refines_answers_to_some_of_its_points() -> None:
    cache = MaskInputCache(1 << 20)
    assert found(cache, visual_prompt(A, B)) is None
    cache.save(KEY, visual_prompt(A), plane(1))
    assert found(cache, visual_prompt(A, B)) == 1
    assert found(cache, visual_prompt(B, A)) == 1
    # A proper subset: a repeated prompt is decoded without a mask input.
    assert found(cache, visual_prompt(A)) is None
    assert found(cache, visual_prompt(B, C)) is None
    assert found(cache, visual_prompt()) is None


def test_a_point_is_its_place_and_its_label() -> None:
    cache = MaskInputCache(1 << 20)
    cache.save(KEY, visual_prompt(A), plane(1))
    assert found(cache, visual_prompt((A[0], A[1], 0), B)) is None
    assert found(cache, visual_prompt((A[0] + 0.5, A[1], 1), B)) is None


def test_the_order_of_points_does_not_matter() -> None:
    cache = MaskInputCache(1 << 20)
    cache.save(KEY, visual_prompt(B, A), plane(1))
    assert found(cache, visual_prompt(C, A, B)) == 1
    assert found(cache, visual_prompt(A, B)) is None


def test_the_box_must_be_the_same() -> None:
    cache = MaskInputCache(1 << 20)
    cache.save(KEY, visual_prompt(A, box=BOX), plane(1))
    assert found(cache, visual_prompt(A, B)) is None
    assert found(cache, visual_prompt(A, B, box=(0, 0, 9, 8))) is None
    assert found(cache, visual_prompt(A, B, box=BOX)) == 1
    cache.save(KEY, visual_prompt(box=BOX), plane(2))
    assert found(cache, visual_prompt(C, box=BOX)) == 2
    cache.save(KEY, visual_prompt(B), plane(3))
    assert found(cache, visual_prompt(B, C)) == 3
    assert found(cache, visual_prompt(B, C, box=BOX)) == 2


def test_the_most_points_win_and_then_the_latest() -> None:
    cache = MaskInputCache(1 << 20)
    cache.save(KEY, visual_prompt(A, B), plane(2))
    cache.save(KEY, visual_prompt(A), plane(1))
    assert found(cache, visual_prompt(A, B, C)) == 2
    cache.save(KEY, visual_prompt(B, C), plane(3))
    assert found(cache, visual_prompt(A, B, C)) == 3
    cache.save(KEY, visual_prompt(A, B), plane(4))
    assert found(cache, visual_prompt(A, B, C)) == 4
    assert cache.nbytes == 3 * PLANE


def test_the_empty_prompt_is_refined_by_any_points() -> None:
    cache = MaskInputCache(1 << 20)
    cache.save(KEY, visual_prompt(), plane(1))
    assert found(cache, visual_prompt(A)) == 1
    assert found(cache, visual_prompt()) is None


@pytest.mark.parametrize(
    "other",
    [
        ImageKey("stranger", "sam2/demo", "id:a"),
        ImageKey("tenant", "sam2/other", "id:a"),
        ImageKey("tenant", "sam2/demo", "id:b"),
    ],
    ids=["tenant", "checkpoint", "image"],
)
def test_answers_belong_to_a_tenant_a_checkpoint_and_an_image(other: ImageKey) -> None:
    cache = MaskInputCache(1 << 20)
    cache.save(KEY, visual_prompt(A), plane(1))
    assert found(cache, visual_prompt(A, B), other) is None
    cache.save(other, visual_prompt(A), plane(2))
    assert found(cache, visual_prompt(A, B)) == 1
    assert found(cache, visual_prompt(A, B), other) == 2


def test_an_image_keeps_its_latest_answers() -> None:
    cache = MaskInputCache(1 << 20)
    for i in range(100):
        cache.save(KEY, visual_prompt((i, 0, 1)), plane(i))
        assert cache.nbytes <= 64 * PLANE
    assert cache.nbytes == 64 * PLANE
    assert found(cache, visual_prompt((99, 0, 1), B)) == 99
    assert found(cache, visual_prompt((36, 0, 1), B)) == 36
    assert found(cache, visual_prompt((35, 0, 1), B)) is None


def test_the_number_per_image_is_a_limit() -> None:
    cache = MaskInputCache(1 << 20, max_per_image=2)
    for i in range(3):
        cache.save(KEY, visual_prompt((i, 0, 1)), plane(i))
    assert cache.nbytes == 2 * PLANE
    assert found(cache, visual_prompt((0, 0, 1), B)) is None


def test_the_latest_results_are_kept_even_of_one_image() -> None:
    cache = MaskInputCache(3 * PLANE)
    for i in range(6):
        cache.save(KEY, visual_prompt((i, 0, 1)), plane(i))
        assert cache.nbytes == min(i + 1, 3) * PLANE
        assert found(cache, visual_prompt((i, 0, 1), B)) == i
    assert found(cache, visual_prompt((2, 0, 1), B)) is None


def test_the_image_used_longest_ago_goes_first() -> None:
    cache = MaskInputCache(3 * PLANE)
    first, second, third, fourth = (ImageKey("t", "c", name) for name in "abcd")
    for key in (first, second, third):
        cache.save(key, visual_prompt(A), plane(1))
    assert found(cache, visual_prompt(A, B), first) == 1
    cache.save(fourth, visual_prompt(A), plane(1))
    assert found(cache, visual_prompt(A, B), second) is None
    # A second result for an image counts its own bytes only, not those of the first again.
    cache.save(fourth, visual_prompt(C), plane(2))
    assert found(cache, visual_prompt(A, B), third) is None
    assert found(cache, visual_prompt(A, B), first) == 1
    assert found(cache, visual_prompt(A, B), fourth) == 1
    assert found(cache, visual_prompt(C, B), fourth) == 2
    assert cache.nbytes == 3 * PLANE


@pytest.mark.parametrize("room", [0, PLANE - 1])
def test_without_capacity_nothing_is_stored(room: int) -> None:
    cache = MaskInputCache(room)
    cache.save(KEY, visual_prompt(A), plane(1))
    assert cache.nbytes == 0
    assert found(cache, visual_prompt(A, B)) is None


def test_clear_removes_everything() -> None:
    cache = MaskInputCache(1 << 20)
    cache.save(KEY, visual_prompt(A), plane(1))
    cache.clear()
    assert cache.nbytes == 0
    assert found(cache, visual_prompt(A, B)) is None
