"""The image encoder: the features of `sam2`'s own modules."""

from __future__ import annotations

from typing import Any

import hydra
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from inference_server.engines.sam2 import fast_hiera
from inference_server.engines.sam2.fast_hiera import FastImageEncoder, UnsupportedEncoderError
from tests.engines.conftest import sam2_config

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
    for linear in (*encoder._neck.linears, *(each for b in encoder._blocks for each in b.linears)):
        linear._is_fused = False
    assert max(errors(ours(encoder, images), expected)) < 3e-6


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
def test_other_architectures_are_refused(
    trunk: dict[str, Any], neck: dict[str, Any], reason: str
) -> None:
    model = model_of(256, trunk, neck)
    with pytest.raises(UnsupportedEncoderError, match=reason):
        FastImageEncoder(model, torch.float32)
