"""The reordered image encoder of SAM 3 returns the results of `Sam3ViTModel`, at any size."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Sam3Config, Sam3ViTConfig
from transformers.models.sam3.modeling_sam3 import Sam3ViTModel

from inference_server.demo import WEIGHTS
from inference_server.demo.scenes import make_scene
from inference_server.engines import attention, linear
from inference_server.engines.device import use_threads
from inference_server.engines.linear import Linear, cast_weights
from inference_server.engines.load_weights import load_sam3
from inference_server.engines.registry import ModelRegistry
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.sam3.fast_vit import FastViT
from inference_server.engines.sam3.trunk import TrunkEngine
from inference_server.settings import Settings
from tests.engines.conftest import CPU, CPU_BFLOAT16, Concept
from tests.engines.sam3.test_engine import concept_prompt, embed, masks_of, replies
from tests.masks.planes import iou

TOLERANCE = 3e-6
"""Maximum relative error in float32: sums are computed in another order."""

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "global_attn_indexes": [1, 3],
    "image_size": 112,
    "patch_size": 14,
    "window_size": 4,
    "pretrain_image_size": 56,
}
"""Windows of 4 x 4 in a grid of 8 x 8; positions are tiled; the scale is no power of two."""

SHAPES: dict[str, dict[str, Any]] = {
    "windows": SMALL,
    "padded windows": SMALL | {"image_size": 140},
    "window larger than the image": SMALL | {"window_size": 11},
    "a remainder of pixels": SMALL | {"image_size": 120},
    "windows only": SMALL | {"global_attn_indexes": []},
    "global only": SMALL | {"global_attn_indexes": [0, 1, 2, 3]},
    "tanh": SMALL | {"hidden_act": "gelu_pytorch_tanh"},
    "published widths": {
        "image_size": 336,
        "num_hidden_layers": 2,
        "global_attn_indexes": [1],
    },
}


@cache
def backbone_of(name: str) -> Any:
    """An image encoder with random weights, including biases and norms."""
    torch.manual_seed(0)
    demo: Any = Sam3Config.from_pretrained(WEIGHTS / "sam3")
    config: Any = (
        demo.vision_config.backbone_config if name == "demo" else Sam3ViTConfig(**SHAPES[name])
    )
    model: Any = Sam3ViTModel(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.2 * parameter[0].numel() ** -0.5)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.float().eval().requires_grad_(False)


def images_for(backbone: Any, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, backbone.config.image_size, backbone.config.image_size)


def reference(backbone: Any, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    enabled = dtype != torch.float32
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        hidden: Tensor = backbone(images).last_hidden_state
    return hidden


def error(found: Tensor, expected: Tensor) -> float:
    """Relative error."""
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", ["demo", *SHAPES])
@torch.inference_mode()
def test_features_are_the_models(name: str) -> None:
    backbone = backbone_of(name)
    images = images_for(backbone, 1 if name == "published widths" else 2)
    expected = reference(backbone, images)
    assert error(FastViT(backbone, torch.float32)(images), expected) < TOLERANCE


@pytest.mark.parametrize("name", ["demo", *SHAPES])
@torch.inference_mode()
def test_bfloat16_is_as_near_as_autocast(name: str) -> None:
    backbone = backbone_of(name)
    images = images_for(backbone, 1 if name == "published widths" else 2)
    expected = reference(backbone, images)
    allowed = error(reference(backbone, images, torch.bfloat16), expected)
    assert 0 < error(FastViT(backbone, torch.bfloat16)(images), expected) < 1.03 * allowed


@pytest.mark.parametrize("name", ["demo", *SHAPES])
@torch.inference_mode()
def test_attention_as_products_with_exact_scores_is_as_near(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In layers that attend globally, also in parts that do not divide the queries."""
    monkeypatch.setattr(attention, "_MANY_KEYS", 17)
    monkeypatch.setattr(attention, "_SCORES", 60 * 64)
    backbone = backbone_of(name)
    images = images_for(backbone, 1 if name == "published widths" else 2)
    expected = reference(backbone, images)
    allowed = error(reference(backbone, images, torch.bfloat16), expected)
    assert 0 < error(FastViT(backbone, torch.bfloat16)(images), expected) < 1.03 * allowed


@torch.inference_mode()
def test_bfloat16_is_as_near_as_autocast_with_trained_weights() -> None:
    model, processor = load_sam3(str(WEIGHTS / "sam3"), "demo", CPU)
    backbone: Any = model.vision_encoder.backbone
    image_processor: Any = processor.image_processor
    scenes = [make_scene(seed, (256, 192)).image for seed in range(3)]
    images = image_processor(images=scenes, return_tensors="pt")["pixel_values"]
    expected = reference(backbone, images)
    assert error(FastViT(backbone, torch.float32)(images), expected) < 10 * TOLERANCE
    allowed = error(reference(backbone, images, torch.bfloat16), expected)
    assert error(FastViT(backbone, torch.bfloat16)(images), expected) < 1.03 * allowed
    products = FastViT(backbone, torch.bfloat16, products=True)
    assert error(products(images), expected) < 1.5 * allowed


def test_masks_in_bfloat16_are_those_of_float32() -> None:
    model, processor = load_sam3(str(WEIGHTS / "sam3"), "demo", CPU)
    precise = ConceptEngine(model, processor, "demo", CPU)
    fast = ConceptEngine(model, processor, "demo", CPU_BFLOAT16)
    overlaps = []
    for seed in range(3):
        image = make_scene(seed, (256, 192)).image
        prompt = concept_prompt("shape", threshold=0.5)
        (expected,) = replies(precise, embed(precise, image), prompt)
        (found,) = replies(fast, embed(fast, image), prompt)
        masks = masks_of(found, image)
        overlaps += [max(iou(mask, like) for mask in masks) for like in masks_of(expected, image)]
    assert overlaps
    assert np.mean(overlaps) > 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["windows", "padded windows"])
@torch.inference_mode()
def test_an_image_is_encoded_alike_in_any_batch_and_in_parts(name: str, dtype: torch.dtype) -> None:
    backbone = backbone_of(name)
    images = images_for(backbone, 3)
    together = FastViT(backbone, dtype)(images)
    tolerance = TOLERANCE if dtype == torch.float32 else 0.01
    for index in range(3):
        alone = FastViT(backbone, dtype, mlp_rows=7)(images[index : index + 1])
        assert error(alone, together[index : index + 1]) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_share_an_encoder(dtype: torch.dtype) -> None:
    """As encode queues of several threads do, each with its own number of CPU threads."""
    backbone = backbone_of("windows")
    encoder = FastViT(backbone, dtype)
    images = images_for(backbone)

    def encode(threads: int) -> Tensor:
        use_threads(threads)
        with torch.inference_mode():
            return encoder(images)

    with ThreadPoolExecutor(1) as pool:
        expected = pool.submit(encode, 1).result()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(encode, [1, 2, 1, 2, 3, 1]):
            assert error(found, expected) < (TOLERANCE if dtype == torch.float32 else 0.01)


def bytes_of(module: Any) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_weights_are_held_once(dtype: torch.dtype) -> None:
    expected = FastViT(backbone_of("windows"), dtype)
    own: Any = Sam3ViTModel(backbone_of("windows").config)
    own.eval()
    own.load_state_dict(backbone_of("windows").state_dict())
    before = bytes_of(own)
    encoder = FastViT(own, dtype, release=True)
    assert bytes_of(own) == 0
    images = images_for(own)
    assert torch.equal(encoder(images), expected(images))
    # Norms and positions stay in float32; positions of the whole image are in memory.
    config = own.config
    tokens = (config.image_size // config.patch_size) ** 2
    pretrained = (config.pretrain_image_size // config.patch_size) ** 2
    small = 4 * config.hidden_size * (2 + 4 * config.num_hidden_layers + pretrained)
    products = (before - small) * dtype.itemsize // 4
    assert encoder.nbytes == products + small + 4 * config.hidden_size * (tokens - pretrained)
    with pytest.raises(RuntimeError):
        own(images)
    with pytest.raises(ValueError, match="freed"):
        FastViT(own, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_model_has_no_second_copy(dtype: str) -> None:
    registry = ModelRegistry(Settings(dtype=dtype))
    key = registry.catalog.concept(None)
    checkpoint: Any = registry.catalog.checkpoint(key)
    concept: Any = registry.sam3_engines(key, checkpoint).concept
    assert bytes_of(concept._model.vision_encoder.backbone) == 0
    assert bytes_of(concept._model.detr_encoder) > 0
    model, _ = load_sam3(checkpoint.source, checkpoint.name, CPU)
    parts: Any = model
    saved = bytes_of(parts.vision_encoder.backbone) // 2 if dtype == "bfloat16" else 0
    if dtype == "bfloat16":
        cast_weights(torch.bfloat16, parts.text_encoder, parts.vision_encoder.neck)
        cast_weights(torch.bfloat16, *(each.self_attn for each in parts.detr_encoder.layers))
        cast_weights(torch.bfloat16, *(each.mlp for each in parts.detr_encoder.layers))
    assert concept.weight_bytes == pytest.approx(bytes_of(model) - saved, rel=0.03)
    (embedding,) = concept.encode([concept.prepare(make_scene(1, (64, 48)).image)])
    assert embedding.features.coarse.isfinite().all()


def test_images_of_another_size_are_refused() -> None:
    encoder = FastViT(backbone_of("windows"), torch.float32)
    with pytest.raises(ValueError, match="126 x 112"):
        encoder(torch.zeros(1, 3, 126, 112))


def test_another_image_encoder_runs_as_it_is(concept: Concept) -> None:
    """A SAM 3 may be configured with any backbone of `transformers`."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner: Any = concept.model.vision_encoder.backbone

        def forward(self, pixels: Tensor) -> Any:
            return self.inner(pixels)

    class Holder:
        backbone = Other()

    class Model:
        vision_encoder = Holder()

    model: Any = Model()
    plain = TrunkEngine(model, concept.processor, "random", CPU)
    fast = TrunkEngine(concept.model, concept.processor, "random", CPU)
    assert plain.encoder is None
    image = [plain.prepare(make_scene(1, (64, 48)).image)]
    assert error(fast.encode(image)[0].features.hidden, plain.encode(image)[0].features.hidden) < (
        TOLERANCE
    )


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
@torch.inference_mode()
def test_a_linear_layer_is_that_of_pytorch(
    dtype: torch.dtype, biased: bool, is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where oneDNN has no layout of its own."""
    if not is_packed:
        monkeypatch.setattr(linear, "has_packing", lambda device, dtype: False)
    torch.manual_seed(0)
    like = nn.Linear(37, 23, bias=biased)
    rows = torch.randn(11, 37)
    tolerance = TOLERANCE if dtype == torch.float32 else 0.01
    for gelu in (False, True):
        layer = Linear(like.weight, like.bias, dtype, gelu=gelu)
        expected = nn.functional.gelu(like(rows)) if gelu else like(rows)
        found = layer(rows.to(dtype))
        assert found.dtype == dtype
        assert error(found.float(), expected) < tolerance
        assert layer.nbytes == (37 * 23 + 23 * biased) * dtype.itemsize
