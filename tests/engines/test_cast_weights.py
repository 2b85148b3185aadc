"""Weights that are cast once compute what autocast computes, bit for bit."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from inference_server.engines.cast_weights import cast_weights
from tests.engines.conftest import random_sam3
from tests.engines.sam1.models import random_sam1

BFLOAT16 = torch.bfloat16


def test_the_encoder_of_sam1_computes_the_same() -> None:
    encoder: Any = random_sam1().vision_encoder
    cast = deepcopy(encoder)
    cast_weights(BFLOAT16, cast)
    pixels = torch.randn(2, 3, 128, 128)
    with torch.inference_mode(), torch.autocast("cpu", dtype=BFLOAT16):
        expected = encoder(pixels).last_hidden_state
        found = cast(pixels).last_hidden_state
    assert torch.equal(found, expected)
    assert sum(p.nbytes for p in cast.parameters()) < sum(p.nbytes for p in encoder.parameters())


def test_the_text_encoder_and_the_neck_of_sam3_compute_the_same() -> None:
    model: Any = random_sam3()
    cast = deepcopy(model)
    cast_weights(BFLOAT16, cast.vision_encoder.neck, cast.text_encoder, cast.text_projection)
    ids = torch.tensor([[1, 5, 9, 2]])
    planes = torch.randn(2, model.config.vision_config.backbone_config.hidden_size, 16, 16)
    with torch.inference_mode(), torch.autocast("cpu", dtype=BFLOAT16):
        for layer, like in zip(
            cast.vision_encoder.neck.fpn_layers, model.vision_encoder.neck.fpn_layers, strict=True
        ):
            assert torch.equal(layer(planes), like(planes))
        found, expected = (each.get_text_features(input_ids=ids) for each in (cast, model))
    assert torch.equal(found.pooler_output, expected.pooler_output)


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
def test_only_layers_of_products_are_cast(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Embedding(4, 3), nn.Conv2d(1, 1, 1))
    cast_weights(dtype, model)
    linear, norm, embedding, conv = model
    for layer in (linear, conv):
        assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
    for layer in (norm, embedding):
        assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
