from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_server.masks import Mask, mask_nms
from tests.masks.planes import Plane, planes


def brute_force(masks: list[Plane], scores: NDArray[np.float32], iou_threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(masks)), key=lambda i: -scores[i]):  # sorted() is stable
        for j in kept:
            either = int((masks[i] | masks[j]).sum())
            if either and int((masks[i] & masks[j]).sum()) / either > iou_threshold:
                break
        else:
            kept.append(i)
    return sorted(kept)


@settings(deadline=None)
@given(st.data())
def test_equal_to_brute_force(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    masks = data.draw(st.lists(planes(size), max_size=8))
    scores = np.array(
        data.draw(
            st.lists(
                st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.75]),
                min_size=len(masks),
                max_size=len(masks),
            )
        ),
        np.float32,
    )
    # Small masks reach these fractions exactly, which tells `>` from `>=`.
    threshold = data.draw(
        st.sampled_from([0.0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1.0]) | st.floats(0, 1)
    )
    expected = brute_force(masks, scores, threshold)
    assert mask_nms([Mask.from_plane(m) for m in masks], scores, threshold) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inference_server.masks.nms.CHUNK_PAIRS", 1)
        assert mask_nms([Mask.from_plane(m) for m in masks], scores, threshold) == expected


def strip(x0: int, x1: int) -> Mask:
    return Mask(np.array([[x0, x1]]), (1, 20))


def test_the_higher_score_stays_and_the_order_is_that_of_the_input() -> None:
    masks = [strip(0, 10), strip(12, 20), strip(0, 9)]
    assert mask_nms(masks, np.array([0.1, 0.5, 0.9], np.float32), 0.5) == [1, 2]
    assert mask_nms(masks, np.array([0.9, 0.5, 0.1], np.float32), 0.5) == [0, 1]


def test_ties_keep_the_earlier() -> None:
    assert mask_nms([strip(0, 10)] * 3, np.array([0.5, 0.5, 0.5], np.float32), 0.5) == [0]


def test_suppressed_masks_suppress_nothing() -> None:
    masks = [strip(0, 10), strip(4, 14), strip(8, 18)]
    assert mask_nms(masks, np.array([0.9, 0.8, 0.7], np.float32), 0.25) == [0, 2]


def test_an_iou_equal_to_the_threshold_is_kept() -> None:
    masks = [strip(0, 10), strip(0, 5)]
    assert mask_nms(masks, np.array([0.9, 0.8], np.float32), 0.5) == [0, 1]
    assert mask_nms(masks, np.array([0.9, 0.8], np.float32), 0.4999999) == [0]


def test_threshold_one_keeps_duplicates_and_zero_drops_one_shared_pixel() -> None:
    scores = np.array([0.9, 0.8], np.float32)
    assert mask_nms([strip(0, 10)] * 2, scores, 1.0) == [0, 1]
    assert mask_nms([strip(0, 10), strip(9, 20)], scores, 0.0) == [0]
    assert mask_nms([strip(0, 10), strip(10, 20)], scores, 0.0) == [0, 1]


def test_empty_masks_are_kept_and_suppress_nothing() -> None:
    masks = [Mask.empty((1, 20)), Mask.empty((1, 20)), strip(0, 20)]
    assert mask_nms(masks, np.array([0.9, 0.8, 0.7], np.float32), 0.0) == [0, 1, 2]


def test_no_masks() -> None:
    assert mask_nms([], np.zeros(0, np.float32), 0.5) == []


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="IoU threshold"):
        mask_nms([strip(0, 1)], np.ones(1, np.float32), threshold)


def test_masks_and_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="scores"):
        mask_nms([strip(0, 1)], np.ones(2, np.float32), 0.5)
    with pytest.raises(ValueError, match="sizes"):
        mask_nms([strip(0, 1), Mask.empty((3, 4))], np.ones(2, np.float32), 0.5)
