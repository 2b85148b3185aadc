"""The reordered SAM 3 decoder returns the results of `Sam3Model`, at any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Sam3Model
from transformers.models.sam3.modeling_sam3 import Sam3PixelDecoder, Sam3VisionEncoderOutput

from inference_server.engines.sam3.decoder import ConceptImage, FastConceptDecoder
from inference_server.engines.sam3.pixel_decoder import FastPixelDecoder
from tests.engines.conftest import sam3_config

TOLERANCE = 2e-4
"""Maximum difference of logits with a deviation near one: sums are computed in another order."""

TEXT_TOKENS = 9

DOUBLING = (1, 2, 4)


@cache
def model_of(channels: int, heads: int, layers: int) -> Sam3Model:
    """A SAM 3 with random weights, including biases and norms, whose defaults are zero and one."""
    torch.manual_seed(0)
    config: Any = sam3_config()
    config.vision_config.fpn_hidden_size = channels
    for name in ("geometry_encoder", "detr_encoder", "detr_decoder", "mask_decoder"):
        part = getattr(config, f"{name}_config")
        part.hidden_size, part.num_attention_heads = channels, heads
        part.num_layers = layers
    config.detr_decoder_config.num_queries = 11
    model: Any = Sam3Model(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=channels**-0.5)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
    ready: Sam3Model = model.float().eval().requires_grad_(False)
    return ready


@dataclass(frozen=True)
class Text:
    """Text embeddings in the form that `Sam3Model.forward` expects."""

    pooler_output: Tensor


@dataclass(frozen=True)
class Asked:
    """Prompts, one for each image of a batch.

    Attributes:
        levels: features of the images, finest first.
        text: `[B, TEXT_TOKENS, C]`, embedded texts.
        counts: number of tokens of each text that are not padding.
        boxes: `[B, K, 4]`, exemplar boxes as fractions of the image; None without exemplars.
        labels: `[B, K]`, their labels, -10 for padding.
    """

    levels: list[Tensor]
    text: Tensor
    counts: list[int]
    boxes: Tensor | None = None
    labels: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        return torch.arange(TEXT_TOKENS) < torch.tensor(self.counts)[:, None]


def levels_of(batch: int, channels: int, size: tuple[int, int], factors: Sequence[int]) -> Any:
    """Random features, finest first; `size` times each factor."""
    return [
        torch.randn(batch, channels, size[0] * factor, size[1] * factor)
        for factor in reversed(factors)
    ]


def reference(model: Sam3Model, asked: Asked) -> tuple[Tensor, Tensor]:
    """Scores and planes of every query, computed by `transformers` alone."""
    neck: Any = model.vision_encoder.neck
    codes = [neck.position_encoding(x.shape, x.device, x.dtype) for x in asked.levels]
    output = model(
        vision_embeds=Sam3VisionEncoderOutput(
            fpn_hidden_states=(*asked.levels, asked.levels[-1]),
            fpn_position_encoding=(*codes, codes[-1]),
        ),
        text_embeds=Text(asked.text),
        attention_mask=asked.mask.long(),
        input_boxes=asked.boxes,
        input_boxes_labels=asked.labels,
    )
    return output.pred_logits.sigmoid() * output.presence_logits.sigmoid(), output.pred_masks


def rearranged(decoder: FastConceptDecoder, asked: Asked) -> tuple[Tensor, list[Tensor]]:
    """Scores and planes of every query, computed by the decoder under test."""
    batch = len(asked.text)
    prepared = decoder.prepare(asked.levels)
    images = [prepared.pick(i) for i in range(batch)]
    tokens, mask = asked.text, asked.mask
    if asked.boxes is not None and asked.labels is not None:
        exemplars = decoder.exemplars(images, asked.boxes, asked.labels)
        count = (asked.labels >= 0).sum(dim=1, keepdim=True) + 1
        tokens = torch.cat([tokens, exemplars], dim=1)
        mask = torch.cat([mask, torch.arange(exemplars.shape[1]) < count], dim=1)
    found = decoder.detect(images, tokens, mask)
    every = torch.arange(found.scores.shape[1])
    planes = [
        decoder.masks(image, found, i, every, tokens[i][mask[i]][None])
        for i, image in enumerate(images)
    ]
    return found.scores, planes


def assert_same(found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, Tensor]) -> None:
    assert torch.allclose(found[0], expected[0], atol=TOLERANCE)
    for planes, like in zip(found[1], expected[1], strict=True):
        assert planes.shape == like.shape
        assert (planes - like).abs().max() < TOLERANCE * max(1, float(like.std()))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(16, 2, 1), (24, 3, 2), (32, 4, 3), (64, 8, 2)]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    counts=st.lists(st.integers(1, TEXT_TOKENS), min_size=1, max_size=3),
    boxes=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
@torch.inference_mode()
def test_scores_and_masks_are_the_models(
    shape: tuple[int, int, int], size: tuple[int, int], counts: list[int], boxes: int, seed: int
) -> None:
    torch.manual_seed(seed)
    channels, batch = shape[0], len(counts)
    placed, labels = None, None
    if boxes:
        placed = torch.rand(batch, boxes, 4) * 0.5 + 0.1
        labels = torch.randint(0, 2, (batch, boxes))
        labels[0, 1:] = -10  # the first prompt has one box
    asked = Asked(
        levels_of(batch, channels, size, DOUBLING),
        torch.randn(batch, TEXT_TOKENS, channels),
        counts,
        placed,
        labels,
    )
    model = model_of(*shape)
    assert_same(
        rearranged(FastConceptDecoder(model, torch.float32), asked), reference(model, asked)
    )


@pytest.mark.parametrize(
    "factors", [(1,), (1, 2), (1, 2, 4, 8), (1, 3), (1, 2, 6), (1, 3, 6), (1, 1, 2), (2, 3, 4)]
)
@torch.inference_mode()
def test_levels_of_any_sizes_are_taken(factors: tuple[int, ...]) -> None:
    """Sizes that do not double take the slower path."""
    torch.manual_seed(0)
    model = model_of(16, 2, 1)
    asked = Asked(levels_of(1, 16, (3, 4), factors), torch.randn(1, TEXT_TOKENS, 16), [4])
    decoder = FastConceptDecoder(model, torch.float32)
    expected = reference(model, asked)
    assert_same(rearranged(decoder, asked), expected)
    assert decoder.prepare(asked.levels).plane_size == expected[1].shape[2:]


@pytest.mark.parametrize("rows", [1, 7, 20])
@torch.inference_mode()
def test_the_size_of_parts_does_not_change_the_result(rows: int) -> None:
    torch.manual_seed(0)
    model = model_of(32, 4, 3)
    asked = Asked(levels_of(2, 32, (5, 6), DOUBLING), torch.randn(2, TEXT_TOKENS, 32), [2, 9])
    decoder = FastConceptDecoder(model, torch.float32, mlp_rows=rows, band=rows)
    assert_same(rearranged(decoder, asked), reference(model, asked))


@torch.inference_mode()
def test_many_prompts_on_one_image_are_decoded_at_once() -> None:
    torch.manual_seed(0)
    model = model_of(32, 4, 3)
    decoder = FastConceptDecoder(model, torch.float32)
    levels = levels_of(1, 32, (5, 6), DOUBLING)
    image = decoder.prepare(levels)
    text = torch.randn(3, TEXT_TOKENS, 32)
    found = decoder.detect([image] * 3, text, None)
    together = [level.expand(3, -1, -1, -1) for level in levels]
    scores, _ = reference(model, Asked(together, text, [TEXT_TOKENS] * 3))
    assert torch.allclose(found.scores, scores, atol=TOLERANCE)


@torch.inference_mode()
def test_only_requested_masks_are_computed() -> None:
    torch.manual_seed(0)
    model = model_of(32, 4, 3)
    decoder = FastConceptDecoder(model, torch.float32)
    asked = Asked(levels_of(1, 32, (5, 6), DOUBLING), torch.randn(1, TEXT_TOKENS, 32), [9])
    image = decoder.prepare(asked.levels)
    found = decoder.detect([image], asked.text, None)
    planes = decoder.masks(image, found, 0, torch.tensor([7, 2]), asked.text)
    _, every = reference(model, asked)
    assert (planes - every[0, [7, 2]]).abs().max() < TOLERANCE * max(1, float(every.std()))


@torch.inference_mode()
def test_bfloat16_is_near() -> None:
    torch.manual_seed(0)
    model = model_of(64, 8, 2)
    asked = Asked(levels_of(2, 64, (5, 6), DOUBLING), torch.randn(2, TEXT_TOKENS, 64), [2, 9])
    scores, planes = rearranged(FastConceptDecoder(model, torch.bfloat16), asked)
    expected, likes = reference(model, asked)
    assert scores.dtype == torch.float32
    assert (scores - expected).abs().max() < 0.1
    for one, like in zip(planes, likes, strict=True):
        assert one.dtype == torch.float32
        assert (one - like).square().mean().sqrt() < 0.1 * like.std()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_images_may_be_kept_in_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    decoder = FastConceptDecoder(model_of(32, 4, 3), torch.float32)
    image = decoder.prepare(levels_of(2, 32, (5, 6), DOUBLING))
    half = image.to(dtype)
    assert half.nbytes * 2 == image.nbytes == sum(each.nbytes for each in image.tensors)
    assert {each.dtype for each in half.tensors} == {dtype}
    assert all(
        torch.equal(each, like[1:])
        for each, like in zip(half.pick(1).tensors, half.tensors, strict=True)
    )
    text = torch.randn(1, TEXT_TOKENS, 32)
    every = torch.arange(11)
    scores, planes = [], []
    for one in (image.pick(0), half.pick(0)):
        found = decoder.detect([one], text, None)
        scores.append(found.scores)
        planes.append(decoder.masks(one, found, 0, every, text))
    assert (scores[0] - scores[1]).abs().max() < 0.05
    assert (planes[0] - planes[1]).square().mean().sqrt() < 0.05 * planes[0].std()


def test_an_image_is_a_batch_of_tensors() -> None:
    image = ConceptImage(
        torch.zeros(2, 8, 3, 5),
        torch.zeros(2, 15, 8),
        (torch.zeros(2, 4, 3, 5, 8), torch.zeros(2, 4, 6, 10, 8)),
    )
    assert image.plane_size == (12, 20)
    assert image.nbytes == 4 * 2 * 8 * 15 * (1 + 1 + 4 + 16)
    assert image.to(torch.float32).coarse is image.coarse
    own = image.pick(1)
    assert own.nbytes == image.nbytes / 2
    assert own.pixels.untyped_storage().nbytes() == own.pixels.nbytes


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    stages=st.integers(1, 3),
    band=st.integers(1, 200),
    offset=st.sampled_from([0.0, 30.0]),
    seed=st.integers(0, 1000),
)
@torch.inference_mode()
def test_the_pixel_decoder_is_the_models(
    size: tuple[int, int], stages: int, band: int, offset: float, seed: int
) -> None:
    """Also at borders, and for features whose mean is far larger than their deviation."""
    torch.manual_seed(seed)
    config: Any = sam3_config().mask_decoder_config
    decoder = Sam3PixelDecoder(config).eval()
    norms: Any = decoder.norms
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    channels = config.hidden_size
    levels = levels_of(1, channels, size, [2**i for i in range(stages + 1)])
    levels = [level + offset for level in levels]
    weight = torch.randn(5, channels)
    expected = torch.einsum("kc,chw->khw", weight, decoder(levels)[0])
    fast = FastPixelDecoder(decoder, torch.float32, band=band)
    skips = tuple(skip[0] for skip in fast.prepare(levels))
    found = fast(levels[-1][0].permute(1, 2, 0), skips, weight)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-3 * max(1, float(expected.std()))
