"""Attention: equal to that of PyTorch, for any shape and strides."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from torch import Tensor

from inference_server.engines import attention as module
from inference_server.engines.attention import attention, exact_attention

SHAPES = {
    "windows": (6, 2, 49, 49, 24),
    "pooled queries": (6, 2, 16, 64, 24),
    "global": (1, 3, 300, 300, 8),
    "one key": (2, 1, 5, 1, 4),
}


def projections(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as views of one projection."""
    batch, heads, count, keys, width = shape
    generator = torch.Generator().manual_seed(1)
    rows = max(count, keys)
    joint = torch.randn(batch, rows, 3, heads, width, generator=generator).to(dtype)
    q, k, v = (part.transpose(1, 2) for part in joint.unbind(2))
    return q[:, :, :count], k[:, :, :keys], v[:, :, :keys]


def plain(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """The definition, in float64."""
    scores = q.double() @ k.double().transpose(-1, -2) * scale
    return scores.softmax(-1) @ v.double()


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("scores", [1, 700, 2**21], ids=["row by row", "chunks", "at once"])
def test_chunks_of_any_size_equal_the_definition(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], scores: int
) -> None:
    monkeypatch.setattr(module, "_SCORES", scores)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        q, k, v = projections(shape, dtype)
        assert error(module._products(q, k, v, 0.3), plain(q, k, v, 0.3)) < tolerance


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_float32_is_that_of_pytorch(shape: tuple[int, ...]) -> None:
    q, k, v = projections(shape, torch.float32)
    found = attention(q, k, v, 0.3)
    assert torch.equal(found, F.scaled_dot_product_attention(q, k, v, scale=0.3))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bfloat16_rounds_only_the_scores_more_than_pytorch(shape: tuple[int, ...]) -> None:
    q, k, v = projections(shape, torch.bfloat16)
    exact = plain(q, k, v, 0.3)
    found = attention(q, k, v, 0.3)
    assert found.dtype == torch.bfloat16
    assert found.shape == exact.shape
    theirs = error(F.scaled_dot_product_attention(q, k, v, scale=0.3), exact)
    assert error(found, exact) <= max(3 * theirs, 1e-6)


def test_heads_join_without_a_copy() -> None:
    q, k, v = projections(SHAPES["windows"], torch.bfloat16)
    assert attention(q, k, v, 0.3).transpose(1, 2).is_contiguous()


def test_inputs_are_not_changed() -> None:
    given = projections(SHAPES["windows"], torch.bfloat16)
    copies = [each.clone() for each in given]
    attention(*given, 0.3)
    for each, copy in zip(given, copies, strict=True):
        assert torch.equal(each, copy)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("scores", [1, 700, 2**21], ids=["row by row", "chunks", "at once"])
def test_exact_attention_is_as_near_as_that_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], scores: int
) -> None:
    monkeypatch.setattr(module, "_SCORES", scores)
    monkeypatch.setattr(module, "_MANY_KEYS", 1)
    q, k, v = projections(shape, torch.bfloat16)
    q = q * 0.3
    exact = plain(q, k, v, 1.0)
    allowed = error(F.scaled_dot_product_attention(q, k, v, scale=1.0), exact)
    with torch.inference_mode():
        assert error(exact_attention(q, k, v), exact) < 1.3 * allowed + 1e-6


def test_exact_attention_is_that_of_pytorch_otherwise() -> None:
    for dtype, keys in ((torch.float32, 3000), (torch.bfloat16, 100)):
        q, k, v = projections((1, 1, 4, keys, 8), dtype)
        expected = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        assert torch.equal(exact_attention(q, k, v), expected)
