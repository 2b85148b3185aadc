"""Padding cut off from masks: the masks of `SamProcessor.post_process_masks`."""

from __future__ import annotations

import resource

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference_server.engines.sam1.fit import fitted_size, prepare, without_padding
from inference_server.masks import Mask, upsample_masks
from tests.engines.sam1.models import processor_of
from tests.masks.planes import iou

SIZES = [
    (480, 640),
    (1080, 1920),
    (600, 900),
    (333, 500),
    (1500, 1000),
    (1023, 1024),
    (1024, 819),
    (64, 64),
    (61, 90),
    (7, 900),
    (300, 3),
]


def shapes(count: int = 6) -> Tensor:
    """Logits of ellipses and boxes anywhere in the model's input, `[count, 256, 256]`."""
    rng = np.random.default_rng(5)
    planes = []
    for index in range(count):
        plane = np.zeros((1024, 1024), np.uint8)
        x, y = (int(value) for value in rng.integers(150, 500, 2))
        a, b = (int(value) for value in rng.integers(60, 250, 2))
        if not index:
            plane[:500, :400] = 1  # which is within images of every shape
        elif index % 2:
            cv2.ellipse(plane, (x, y), (a, b), float(rng.integers(180)), 0, 360, 1, -1)
        else:
            plane[max(0, y - b) : y + b, max(0, x - a) : x + a] = 1
        soft = cv2.GaussianBlur(cv2.resize(plane * 255, (256, 256)), (0, 0), 0.8) / 255
        planes.append(np.log((soft + 1e-3) / (1.001 - soft)).astype(np.float32))
    return torch.from_numpy(np.stack(planes))


def processed(logits: Tensor, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The final masks of `transformers`."""
    processor = processor_of(1024)
    (masks,) = processor.post_process_masks(
        [logits[None]], torch.tensor([size]), torch.tensor([fitted_size(size, 1024)])
    )
    planes: NDArray[np.bool_] = masks[0].numpy()
    return planes


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_those_of_the_processor(size: tuple[int, int]) -> None:
    logits = shapes()
    planes = without_padding(logits, size)
    assert max(planes.shape) <= 512
    assert planes.is_contiguous()
    compared = 0
    for mask, plane in zip(
        upsample_masks(planes.numpy(), size), processed(logits, size), strict=True
    ):
        reference = Mask.from_plane(plane)
        if reference.area < 0.02 * plane.size:  # mostly in the padding
            continue
        compared += 1
        assert iou(mask, reference) > 0.99
        if max(size) <= 512:
            assert np.count_nonzero(mask.to_plane() != plane) <= 1
    assert compared >= 1


@pytest.mark.parametrize("size", [(600, 900), (480, 640), (1500, 1000)])
def test_a_mask_that_ends_at_the_edge_has_no_gap_there(size: tuple[int, int]) -> None:
    """A mask of everything: padding that is outside takes a pixel off at most, as it does there."""
    logits = torch.full((1, 256, 256), -20.0)
    height, width = fitted_size(size, 1024)
    logits[:, : -(-height // 4), : -(-width // 4)] = 20.0
    (mask,) = upsample_masks(without_padding(logits, size).numpy(), size)
    (reference,) = processed(logits, size)
    lost = (~mask.to_plane()).sum()
    assert lost <= 2 * max(size)
    assert abs(int(lost) - int((~reference).sum())) <= max(size)


def test_a_large_square_is_returned_as_it_is() -> None:
    logits = shapes(2)
    assert torch.equal(without_padding(logits, (900, 900)), logits)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((600, 900), (683, 1024)),
        ((900, 600), (1024, 683)),
        ((1, 1), (1024, 1024)),
        ((3, 4000), (1, 1024)),
        ((1, 4000), (1, 1024)),
        ((4000, 1), (1024, 1)),
    ],
)
def test_the_longer_side_fills_the_input(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fitted_size(size, 1024) == fitted
    if min(size) > 1:
        shape = processor_of(1024).image_processor._get_preprocess_shape(size, 1024)
        assert shape == fitted


@pytest.mark.parametrize("size", [(400_000, 1), (1, 400_000), (100_000, 16)])
def test_memory_does_not_grow_with_the_aspect(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    prepare(image[:100, :100], 1024)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert prepare(image, 1024).pixels.shape == (3, *fitted_size(size, 1024))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024 < 100
