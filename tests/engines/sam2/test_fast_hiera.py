"""The image encoder: the features of `sam2`'s own modules."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from inference_server.demo.scenes import make_scene
from inference_server.engines import linear
from inference_server.engines.base import VisualPrompt, queries
from inference_server.engines.features import bytes_of
from inference_server.engines.sam2 import fast_hiera
from inference_server.engines.sam2.engine import ReferenceEncoder, VisualEngine
from inference_server.engines.sam2.fast_hiera import FastImageEncoder, UnsupportedEncoderError
from inference_server.masks import upsample_masks
from tests.engines.conftest import CPU, CPU_BFLOAT16, random_sam2, sam2_config
from tests.masks.planes import iou

PUBLISHED = {
    "window_spec": [8, 4, 14, 7],
    "global_att_blocks": [4],
    "stages": [1, 2, 3, 2],
    "window_pos_embed_bkg_spatial_size": [7, 7],
}
"""Windows as in the published sizes."""

ARCHITECTURES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "demo": (256, {}, {}),
    "demo, two levels top-down": (256, {}, {"fpn_top_down_levels": [2, 3]}),
    "no top-down": (256, {}, {"fpn_top_down_levels": []}),
    "cut-off windows": (256, PUBLISHED, {"fpn_top_down_levels": [2, 3]}),
    "published size": (1024, PUBLISHED, {"fpn_top_down_levels": [2, 3]}),
}
"""Side of the input, changes of the trunk, changes of the neck."""


def model_of(side: int, trunk: dict[str, Any], neck: dict[str, Any]) -> SAM2Base:
    """A model with the demo's widths and random weights, norms and biases included."""
    config = sam2_config()
    config.model.image_size = side
    config.model.image_encoder.trunk.update(trunk)
    config.model.image_encoder.neck.update(neck)
    torch.manual_seed(0)
    model: SAM2Base = hydra.utils.instantiate(config.model, _recursive_=True)
    for parameter in model.image_encoder.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def reference(model: SAM2Base, images: Tensor) -> list[Tensor]:
    """The coarse level and the fine ones, as `SAM2ImagePredictor` reads them."""
    parts: Any = model
    levels = parts.forward_image(images)["backbone_fpn"]
    return [levels[-1], *levels[:-1]]


@torch.inference_mode()
def ours(encoder: FastImageEncoder, images: Tensor) -> list[Tensor]:
    coarse, fine = encoder(images)
    return [coarse, *fine]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Relative error of each level."""
    assert [each.shape for each in found] == [each.shape for each in exact]
    return [
        float((one.double() - other.double()).norm() / other.double().norm())
        for one, other in zip(found, exact, strict=True)
    ]


def images_of(model: SAM2Base, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, model.image_size, model.image_size, generator=generator)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_in_float32_are_those_of_sam2(name: str) -> None:
    model = model_of(*ARCHITECTURES[name])
    images = images_of(model, 1)
    found = ours(FastImageEncoder(model, torch.float32), images)
    assert max(errors(found, reference(model, images))) < 3e-6


@pytest.mark.parametrize("name", ["demo", "cut-off windows"])
def test_features_in_bfloat16_are_as_exact_as_with_autocast(name: str) -> None:
    model = model_of(*ARCHITECTURES[name])
    images = images_of(model, 2)
    exact = reference(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = errors(reference(model, images), exact)
    encoder = FastImageEncoder(model, torch.bfloat16)
    for mine, other in zip(errors(ours(encoder, images), exact), theirs, strict=True):
        assert mine < 1.15 * other


@pytest.mark.parametrize("together", [True, False], ids=["at once", "one by one"])
def test_images_of_a_batch_get_the_features_they_get_alone(together: bool) -> None:
    """GPUs run a batch at once, CPUs one image after the other."""
    model = model_of(*ARCHITECTURES["cut-off windows"])
    encoder = FastImageEncoder(model, torch.float32)
    encoder._one_by_one = not together
    images = images_of(model, 3)
    assert max(errors(ours(encoder, images), reference(model, images))) < 3e-6
    alone = ours(encoder, images[1:2])
    assert max(errors([each[1:2] for each in ours(encoder, images)], alone)) < 3e-6


def test_chunks_and_plain_products_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, and layers as on a device without oneDNN."""
    model = model_of(*ARCHITECTURES["cut-off windows"])
    images = images_of(model, 1)
    expected = reference(model, images)
    monkeypatch.setattr(fast_hiera, "_TOKENS", 150)
    encoder = FastImageEncoder(model, torch.float32)
    assert max(errors(ours(encoder, images), expected)) < 3e-6
    monkeypatch.setattr(linear, "has_packing", lambda device, dtype: False)
    plain = FastImageEncoder(model, torch.float32)
    assert max(errors(ours(plain, images), expected)) < 3e-6


def test_features_without_high_resolution() -> None:
    model = model_of(*ARCHITECTURES["demo"])
    model.use_high_res_features_in_sam = False
    images = images_of(model, 1)
    coarse, fine = FastImageEncoder(model, torch.float32)(images)
    assert fine == []
    assert max(errors([coarse], reference(model, images)[:1])) < 3e-6


@pytest.mark.parametrize(
    ("trunk", "neck", "reason"),
    [
        ({}, {"fuse_type": "avg"}, "fuse_type avg"),
        ({}, {"fpn_interp_model": "bilinear"}, "fpn_interp_model bilinear"),
        ({"q_pool": 2}, {}, "a stage that does not halve"),
        ({"global_att_blocks": [1]}, {}, "block 1: global attention with pooling"),
        ({"window_spec": [8, 7, 16, 8]}, {}, "block 2: windows of 7 x 7 cannot be pooled"),
    ],
)
def test_other_architectures_are_run_by_sam2(
    caplog: pytest.LogCaptureFixture, trunk: dict[str, Any], neck: dict[str, Any], reason: str
) -> None:
    model = model_of(256, trunk, neck)
    with pytest.raises(UnsupportedEncoderError, match=reason):
        FastImageEncoder(model, torch.float32)
    if trunk:
        return  # the decoder does not take levels of such sizes
    with caplog.at_level(logging.INFO):
        engine = VisualEngine(model, "random", CPU)
    assert f"random: using the image encoder of the package sam2 ({reason})" in caplog.text
    (embedding,) = engine.encode([engine.prepare(np.full((30, 40, 3), 70, np.uint8))])
    point = VisualPrompt(np.array([[5, 5]], np.float32), np.array([1]))
    (answer,) = engine.decode(queries(embedding, [point]))
    assert np.isfinite(answer.planes).all()


def test_masks_of_the_demo_in_bfloat16(demo_model: SAM2Base) -> None:
    """On clicks on objects they are those of float32, as with the package's encoder."""
    precise = VisualEngine(demo_model, "demo", CPU)
    coarse = VisualEngine(demo_model, "demo", CPU_BFLOAT16)
    overlaps = []
    for index in range(4):
        scene = make_scene(index, (320, 240))
        prompts = [
            VisualPrompt(np.array([item.click()], np.float32), np.array([1]))
            for item in scene.objects
        ]
        masks = []
        for engine in (precise, coarse):
            (embedding,) = engine.encode([engine.prepare(scene.image)])
            found = engine.decode(queries(embedding, prompts, best=True))
            masks.append([upsample_masks(each.planes, (240, 320))[0] for each in found])
        overlaps += [iou(one, other) for one, other in zip(*masks, strict=True)]
    assert len(overlaps) > 8
    assert min(overlaps) > 0.95
    assert np.mean(overlaps) > 0.99


@pytest.mark.parametrize("compute", [CPU, CPU_BFLOAT16], ids=["float32", "bfloat16"])
def test_the_encoders_weights_are_in_memory_once(compute: Any) -> None:
    model = random_sam2()
    encoder, rest = model.image_encoder, (model.sam_prompt_encoder, model.sam_mask_decoder)
    whole = bytes_of(*rest) + bytes_of(encoder) * compute.dtype.itemsize / 4
    engine = VisualEngine(model, "random", compute)
    assert engine.weight_bytes == pytest.approx(whole, rel=0.1)
    parts = [model, encoder, encoder.trunk.blocks[0], encoder.trunk.blocks[0].attn.qkv.weight]
    freed = [weakref.ref(part) for part in parts]
    del model, encoder, rest, parts
    gc.collect()
    assert [each() for each in freed] == [None] * 4
    (embedding,) = engine.encode([engine.prepare(np.zeros((9, 9, 3), np.uint8))])
    assert embedding.nbytes > 0


@pytest.mark.parametrize("compute", [CPU, CPU_BFLOAT16], ids=["float32", "bfloat16"])
@torch.inference_mode()
def test_the_engine_adds_what_sam2_adds(compute: Any) -> None:
    """An engine gets the same features from both encoders, up to rounding."""
    model = random_sam2()
    engine = VisualEngine(model, "random", compute)
    image = engine.prepare(make_scene(1, (64, 48)).image)
    (fast,) = engine.encode([image])
    assert isinstance(engine._encoder, FastImageEncoder)
    engine._encoder = ReferenceEncoder(model, compute)
    (plain,) = engine.encode([image])
    bound = 3e-6 if compute is CPU else 0.03
    found, exact = ([each.float() for each in own.features.tensors] for own in (fast, plain))
    assert max(errors(found, exact)) < bound
