from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_server.masks import encode_rle, upsample_mask, upsample_masks

Logits = NDArray[np.float32]

TOLERANCE = 1e-4
"""A pixel may differ if its logit is this close to the threshold, relative to the largest logit."""


def interpolate(logits: Logits, size: tuple[int, int]) -> Logits:
    """Interpolate [N, h, w] to [N, H, W] with PyTorch."""
    planes: Logits = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=False
    )[0].numpy()
    return planes


def check(logits: Logits, size: tuple[int, int], threshold: float = 0.0) -> None:
    reference = interpolate(logits, size)
    masks = upsample_masks(logits, size, threshold)
    assert len(masks) == len(logits)
    for mask, plane in zip(masks, reference, strict=True):
        assert mask.size == size
        differs = mask.to_plane() != (plane > threshold)
        near = np.abs(plane - np.float32(threshold)) < TOLERANCE * np.abs(logits).max()
        assert not (differs & ~near).any()


def noise(seed: int, shape: tuple[int, ...], sigma: float = 0.0) -> Logits:
    """Gaussian noise with unit deviation, smoothed over `sigma` cells."""
    logits = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    if sigma:
        logits = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in logits])
        logits /= logits.std()
    return logits


def blob(cx: float, cy: float, radius: float, n: int = 256) -> Logits:
    """Logits [n, n] of a disc, positive inside; centre and radius in fractions of the side."""
    y, x = np.mgrid[0:n, 0:n] / n
    plane: Logits = (60 * (radius - np.hypot(x - cx, y - cy))).astype(np.float32)
    return plane


@pytest.mark.parametrize(
    "size",
    [
        (1080, 1920),
        (1920, 1080),
        (480, 640),
        (1013, 677),
        (256, 256),
        (288, 1008),
        (100, 700),  # downscaled vertically, upscaled horizontally
        (700, 100),
        (101, 77),
        (1, 1),
    ],
)
@pytest.mark.parametrize("sigma", [0.0, 2.0, 12.0])
def test_equal_to_torch(size: tuple[int, int], sigma: float) -> None:
    check(noise(0, (2, 256, 256), sigma), size)


@pytest.mark.parametrize("offset", [-2.5, -1.0, 1.0, 2.5])
def test_few_and_many_pixels_inside(offset: float) -> None:
    check(noise(1, (2, 64, 80), 3.0) + np.float32(offset), (333, 517))


@pytest.mark.parametrize("threshold", [-1.0, 0.1, 1.0])
def test_threshold(threshold: float) -> None:
    check(noise(2, (1, 64, 64), 3.0), (333, 517), threshold)


@pytest.mark.parametrize(
    "centre", [(0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.5, 0.0), (0.0, 0.5), (1.0, 0.4), (0.4, 1.0)]
)
def test_masks_at_each_border(centre: tuple[float, float]) -> None:
    check(blob(*centre, 0.2)[None], (540, 961))


@pytest.mark.parametrize("size", [(540, 960), (1080, 1920), (37, 53)])
def test_planes_side_by_side_are_those_of_each_alone(size: tuple[int, int]) -> None:
    radii = [0.3, 0.01, 0.05, 0.0, 0.02, 0.45, 0.004, 0.05]
    planes = [blob(0.1 + 0.1 * i, 0.9 - 0.1 * i, radius, 64) for i, radius in enumerate(radii)]
    logits = np.stack([*planes, *noise(3, (2, 64, 64), 1.0)])
    masks = upsample_masks(logits, size)
    for mask, plane in zip(masks, logits, strict=True):
        alone = upsample_mask(plane, size)
        assert np.array_equal(mask.runs, alone.runs)
        # A mask keeps no memory of the others.
        base = mask.runs.base
        assert base is None or base.nbytes == mask.runs.nbytes
    assert masks[3].is_empty
    check(logits, size)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    offset=st.sampled_from([-2.0, -0.5, 0.0, 0.5, 2.0]),
    sigma=st.sampled_from([0.0, 1.0]),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_any_shape_to_any_size(
    seed: int,
    shape: tuple[int, int],
    size: tuple[int, int],
    offset: float,
    sigma: float,
    scale: float,
) -> None:
    logits = (noise(seed, (1, *shape)) + np.float32(offset)) * np.float32(scale)
    if sigma:
        logits = cv2.GaussianBlur(logits[0], (0, 0), sigma)[None]
    check(logits, size)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
)
def test_no_streaks_whatever_the_magnitudes(
    seed: int, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    """Rounding must not hide a crossing: from subnormal to the largest values, and ties at zero."""
    values = np.array([0, 1e-45, 1e-38, 1e-7, 1, 1e8, 3e38], np.float32)
    values = np.concatenate([values, -values])
    logits = np.random.default_rng(seed).choice(values, shape)
    plane = upsample_mask(logits, size).to_plane()

    y_matrix, x_matrix = (bilinear(n_in, n) for n_in, n in zip(shape, size, strict=True))
    surface = y_matrix @ logits.astype(np.float64) @ x_matrix.T
    # A pixel may differ where the interpolated terms cancel below the float32 resolution of the
    # knots around it, because both implementations interpolate in float32.
    largest = cv2.dilate(np.abs(logits), np.ones((3, 3), np.uint8))
    about = (y_matrix > 0).astype(np.float64) @ largest @ (x_matrix > 0).T
    float32 = np.finfo(np.float32)
    near = np.maximum(float32.eps * about, 2 * float32.smallest_subnormal)
    assert not ((plane != (surface > 0)) & (np.abs(surface) > near)).any()


def bilinear(n_in: int, n_out: int) -> NDArray[np.float64]:
    """Weights [n_out, n_in] of linear interpolation along an axis."""
    source = ((np.arange(n_out) + 0.5) * n_in / n_out - 0.5).clip(0, n_in - 1)
    weights: NDArray[np.float64] = (1 - np.abs(source[:, None] - np.arange(n_in))).clip(0)
    return weights


def test_the_same_size_is_the_logits_themselves() -> None:
    logits = np.random.default_rng(3).integers(-1, 2, (30, 40)).astype(np.float32)
    np.testing.assert_array_equal(upsample_mask(logits, (30, 40)).to_plane(), logits > 0)


def test_logits_that_are_a_mask_already() -> None:
    logits = np.zeros((20, 20), np.float32)
    logits[5:9, 3:12] = 1
    mask = upsample_mask(logits, (60, 60), 0.5)
    assert mask.box == (9, 15, 36, 27)
    assert mask.area == 27 * 12 - 4  # bilinear interpolation rounds each corner by a pixel


def test_full_and_empty() -> None:
    assert upsample_mask(np.full((4, 5), 0.1, np.float32), (33, 47)).area == 33 * 47
    assert upsample_mask(np.zeros((4, 5), np.float32), (33, 47)).is_empty
    assert upsample_masks(np.zeros((0, 4, 5), np.float32), (33, 47)) == []


def test_a_mask_between_the_samples_of_a_smaller_image_is_empty() -> None:
    logits = np.full((64, 64), -1, np.float32)
    logits[3, 3] = 0.5
    assert upsample_mask(logits, (8, 8)).is_empty


def test_values_that_are_not_finite_stay_where_they_are() -> None:
    logits = blob(0.5, 0.5, 0.2, 32)
    clean = upsample_mask(logits, (64, 64)).to_plane()
    logits[16, 16] = np.inf
    logits[0, 0] = np.nan
    logits[31, 31] = -np.inf
    np.testing.assert_array_equal(upsample_mask(logits, (64, 64)).to_plane(), clean)
    assert upsample_mask(np.full((4, 4), np.nan, np.float32), (64, 64)).is_empty


@pytest.mark.parametrize("chunk", [1, 1000])
def test_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference_server.masks.upsample.CHUNK_BYTES", chunk)
    check(noise(4, (1, 16, 20), 1.0), (77, 103))


def test_threads_do_not_affect_each_other() -> None:
    logits = noise(5, (24, 64, 64), 2.0)
    expected = [encode_rle(mask) for mask in upsample_masks(logits, (270, 480))]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda low: encode_rle(upsample_mask(low, (270, 480))), logits)
        assert list(found) == expected


def test_the_memory_follows_the_outline() -> None:
    mask = upsample_mask(blob(0.5, 0.5, 0.05), (4032, 4032))
    assert mask.runs.nbytes < 4032 * 0.11 * 16
    assert upsample_mask(np.ones((256, 256), np.float32), (4032, 4032)).runs.nbytes == 16


def test_invalid_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="N, h, w"):
        upsample_masks(np.zeros((4, 5), np.float32), (8, 8))
    with pytest.raises(ValueError, match="h, w"):
        upsample_mask(np.zeros((1, 4, 5), np.float32), (8, 8))
    with pytest.raises(ValueError, match="one pixel"):
        upsample_mask(np.zeros((4, 5), np.float32), (0, 8))
