"""Resizing to a model's input: equality with the reference processors, also for reduced images."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sam2.utils.transforms import SAM2Transforms
from torch import Tensor
from transformers import Sam3ImageProcessor

from inference_server.demo.scenes import make_scene
from inference_server.engines.resize import Normalizer, resize

SIDE = 64
SIZES = [(64, 64), (90, 160), (300, 200), (128, 65), (3, 40), (1, 1), (1, 300), (500, 7)]


def noise(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def sam3(image: NDArray[np.uint8]) -> Tensor:
    processor = Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    output = processor(images=[image], input_data_format="channels_last", return_tensors="pt")
    values: Tensor = output["pixel_values"]
    return values


@pytest.mark.parametrize("size", SIZES)
def test_numbers_are_those_of_sam3s_processor(size: tuple[int, int]) -> None:
    normalize = Normalizer([0.5] * 3, [0.5] * 3)
    assert torch.equal(normalize([resize(noise(size), SIDE)]), sam3(noise(size)))


@pytest.mark.parametrize("size", SIZES)
def test_numbers_are_those_of_sam2s_transforms_rounded_to_bytes(size: tuple[int, int]) -> None:
    reference = SAM2Transforms(SIDE, 0.0)  # type: ignore[no-untyped-call]
    normalize = Normalizer(reference.mean, reference.std)
    found = normalize([resize(noise(size), SIDE)])
    step = 1 / (255 * torch.tensor(reference.std)[:, None, None])
    off = (found[0] - reference(noise(size))).abs() / step
    assert float(off.max()) < 1.001
    assert float(off.mean()) < 0.4


@pytest.mark.parametrize("size", [(3000, 1), (700, 40), (2000, 63)])
def test_tall_and_narrow_images_are_off_by_one_at_most(size: tuple[int, int]) -> None:
    """They are resized vertically first, and rounded in between."""
    planes = torch.from_numpy(noise(size)).permute(2, 0, 1)[None].float()
    exact = torch.nn.functional.interpolate(
        planes, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
    )[0]
    assert float((resize(noise(size), SIDE) - exact).abs().max()) < 1.1
    extent = (size[0] - 0.5, float(size[1]))
    shifted = (resize(noise(size), SIDE, extent) - exact).abs()
    assert float(shifted.mean()) < 3


@pytest.mark.parametrize("size", [(400_000, 1), (1, 400_000), (100_000, 16), (16, 100_000)])
def test_memory_does_not_grow_with_the_aspect(size: tuple[int, int]) -> None:
    """One column of 400,000 rows took 1.2 GB: the model's side for every row."""
    image = noise(size)
    resize(noise((100, 100)), 1024)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert resize(image, 1024).shape == (3, 1024, 1024)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024 < 100


def test_a_batch_is_normalised_image_by_image() -> None:
    normalize = Normalizer([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    images = [resize(noise((80, 70), seed), SIDE) for seed in range(3)]
    batch = normalize(images)
    assert batch.shape == (3, 3, SIDE, SIDE)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    for one, image in zip(batch, images, strict=True):
        assert torch.equal(one, normalize([image])[0])
    assert images[0].dtype == torch.uint8  # not modified
    assert torch.equal(images[0], resize(noise((80, 70), 0), SIDE))


@pytest.mark.parametrize("size", SIZES)
def test_the_result_is_contiguous(size: tuple[int, int]) -> None:
    found = resize(noise(size), SIDE)
    assert found.shape == (3, SIDE, SIDE)
    assert found.is_contiguous()


def test_arrays_that_are_views_or_read_only() -> None:
    image = noise((90, 120))
    expected = resize(image, SIDE)
    assert torch.equal(resize(image[::-1].copy()[::-1], SIDE), expected)
    frozen = image.copy()
    frozen.flags.writeable = False
    assert torch.equal(resize(frozen, SIDE), expected)


def test_an_extent_of_everything_changes_nothing() -> None:
    image = noise((90, 120))
    assert torch.equal(resize(image, SIDE, (90.0, 120.0)), resize(image, SIDE))


def test_pixels_beyond_the_extent_are_ignored() -> None:
    """An edge in the middle of the extent stays in the middle of the square."""
    image = np.zeros((201, 301, 3), np.uint8)
    image[100:] = 200
    image[:, 300:] = 255
    found = resize(image, SIDE, (200.0, 300.2)).float().mean(dim=0)
    assert float(found[: SIDE // 2 - 1].max()) <= 255 * 0.1
    rows = found[:, : SIDE // 2].mean(dim=1) / 200
    assert float(rows.sum()) == pytest.approx(SIDE / 2, abs=0.02)


def test_threads_do_not_affect_each_other() -> None:
    images = [make_scene(seed, (320, 240)).image for seed in range(8)]
    expected = [resize(image, SIDE) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda image: resize(image, SIDE), images))
            assert all(map(torch.equal, found, expected))
