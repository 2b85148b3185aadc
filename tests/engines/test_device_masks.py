"""Masks made by the operations that run on a GPU, on CPU tensors: equal to those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_server.engines.base import Candidates
from inference_server.engines.device import Compute
from inference_server.engines.device_masks import DeviceMasks, Part
from inference_server.masks import Mask, upsample_masks
from inference_server.segmentation.postprocess import to_instances

TOLERANCE = 1e-4
"""A pixel may differ if its logit is this close to the threshold, relative to the largest logit."""


def compute(least: int = 1) -> Compute:
    return Compute(torch.device("cpu"), torch.float32, torch.float32, masks_from=least)


def made(parts: list[Part], **options: int) -> list[NDArray[np.int64]]:
    launched = DeviceMasks(compute(), **options).launch(parts)
    return launched.read([tensor.numpy() for tensor in launched.tensors])


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def blobs(count: int) -> torch.Tensor:
    """Discs of several sizes; the first is empty, the last covers everything."""
    axis = (torch.arange(64) + 0.5) / 64
    away = torch.hypot(axis - 0.4, axis[:, None] - 0.6)
    return torch.stack([12 * (radius - away) for radius in torch.linspace(-0.1, 1.2, count)])


def check(planes: torch.Tensor, size: tuple[int, int], runs: list[NDArray[np.int64]]) -> None:
    """Compare with the masks of the CPU, pixel by pixel."""
    assert len(runs) == len(planes)
    if not len(planes):
        return
    exact = torch.nn.functional.interpolate(planes[None], size, mode="bilinear")[0].numpy()
    wanted = upsample_masks(planes.numpy(), size)
    for own, mask, plane, logits in zip(runs, wanted, exact, planes, strict=True):
        differs = Mask(own, size).to_plane() != mask.to_plane()
        assert not (differs & (np.abs(plane) > TOLERANCE * float(logits.abs().max()))).any()


@pytest.mark.parametrize("size", [(108, 192), (300, 41), (64, 64), (20, 30), (1, 50), (50, 1)])
def test_masks_are_those_of_the_cpu(size: tuple[int, int]) -> None:
    planes = torch.cat([blobs(5), noise(0, 2, 64, 64)])
    runs = made([(planes, size)])
    check(planes, size, runs)
    assert len(runs[0]) == 0
    assert runs[4].tolist() == [[0, size[0] * size[1]]], "one run, across columns"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    chunk=st.integers(1, 4000),
)
def test_masks_of_any_shape_in_any_chunks(
    seed: int, shape: tuple[int, int, int], size: tuple[int, int], chunk: int
) -> None:
    planes = noise(seed, *shape)
    check(planes, size, made([(planes, size)], chunk_pixels=chunk))


def test_parts_of_several_images_and_sizes_stay_in_order() -> None:
    parts = [(noise(i, i, 8, 8), size) for i, size in enumerate([(9, 9), (9, 9), (20, 7), (9, 9)])]
    runs = made(parts)
    assert len(runs) == 6
    start = 0
    for planes, size in parts:
        check(planes, size, runs[start : start + len(planes)])
        start += len(planes)


def test_more_runs_than_there_is_room_for_take_another_pass() -> None:
    stripes = torch.ones(2, 64, 64)
    stripes[:, ::2] = -1
    launched = DeviceMasks(compute()).launch([(stripes, (64, 64))])
    counts, found = (tensor.numpy() for tensor in launched.tensors)
    assert counts.sum() > len(found)
    check(stripes, (64, 64), launched.read([counts, found]))


def test_infinite_logits_and_no_masks() -> None:
    planes = torch.full((1, 4, 4), -torch.inf)
    planes[0, 1, 1] = torch.inf
    (runs,) = made([(planes, (8, 8))])
    (wanted,) = upsample_masks(planes.numpy(), (8, 8))
    assert runs.tolist() == wanted.runs.tolist()
    assert made([]) == made([(planes[:0], (8, 8))]) == []


def test_few_masks_and_huge_images_are_left_to_the_cpu() -> None:
    planes = noise(0, 3, 8, 8)
    assert DeviceMasks(compute(3)).wins([(planes[:1], (9, 9)), (planes[1:], (7, 7))])
    assert not DeviceMasks(compute(4)).wins([(planes, (9, 9))])
    assert not DeviceMasks(compute(0)).wins([(planes, (9, 9))]), "0 is never"
    assert not DeviceMasks(compute()).wins([(planes, (20_000, 20_000))])


def test_instances_have_the_runs_of_the_engine() -> None:
    planes = blobs(3)
    runs = made([(planes, (30, 40))])
    scores = np.ones(3, np.float32)
    given = Candidates(np.empty((3, 0, 0), np.float32), 0.0, scores, runs=runs)
    wanted = Candidates(planes.numpy(), 0.0, scores)
    found, plain = (to_instances((30, 40), [(7, each)]) for each in (given, wanted))
    for one, like in zip(found, plain, strict=True):
        assert one.prompt == like.prompt == 7
        assert one.mask.runs.tolist() == like.mask.runs.tolist()
