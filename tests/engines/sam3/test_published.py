"""Meta's `sam3.pt`: each of its tensors is used, or known to be unused, and none is left over."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Sam3Model, Sam3Processor, Sam3VideoConfig

from inference_server.demo import WEIGHTS
from inference_server.demo.scenes import make_scene
from inference_server.engines.load_weights import load_sam3, load_sam3_head
from inference_server.engines.sam3 import published
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.sam3.visual_head import VisualHead
from inference_server.engines.weights import find_sam3
from inference_server.errors import ModelUnavailableError
from tests.engines.conftest import CPU, random_sam3
from tests.engines.sam3.test_engine import PROMPTS, ask

VIDEO = "tracker.maskmem_tpos_enc"
"""A tensor of the file that only following objects through videos needs."""


def shapes_of_the_file() -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of all tensors of the file.

    They are those of the `state_dict` of `build_sam3_video_model` in facebookresearch/sam3 at
    99d02f28, into which Meta's code loads the file strictly.
    """
    for line in (Path(__file__).parent / "sam3_pt.txt").read_text().splitlines():
        pattern, shape = line.split()
        sides = [int(side) for side in shape.split("x")]
        ranges = re.search(r"\[(.+)\]", pattern)
        if ranges is None:
            yield pattern, sides
            continue
        for part in ranges[1].split(","):
            first, _, last = part.partition("-")
            for index in range(int(first), int(last or first) + 1):
                yield pattern.replace(ranges[0], str(index)), sides


def used(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each for name, each in tensors.items() if not published._UNUSED.fullmatch(name)}


def test_every_tensor_has_a_place_of_its_shape() -> None:
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in shapes_of_the_file()}
        config: Any = published.config()
        model: Any = Sam3Model(config.detector_config)
        head = VisualHead(config.tracker_config, config.detector_config.vision_config)
    assert len(tensors) == 1465
    pairs = (
        (model, published.concept_tensors(used(tensors))),
        (head, published.head_tensors(used(tensors))),
    )
    for module, found in pairs:
        expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
        assert {name: tensor.shape for name, tensor in found.items()} == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("transformer.decoder.layers.2.norm1.bias", "vision_cross_attn_layer_norm.bias"),
        ("transformer.decoder.layers.2.norm2.bias", "self_attn_layer_norm.bias"),
        ("transformer.decoder.layers.2.norm3.bias", "mlp_layer_norm.bias"),
        ("transformer.decoder.layers.2.catext_norm.bias", "text_cross_attn_layer_norm.bias"),
        ("transformer.decoder.layers.2.linear2.bias", "mlp.fc2.bias"),
    ],
)
def test_layers_of_one_shape_are_not_exchanged(name: str, expected: str) -> None:
    """Names as in `convert_sam3_video_to_hf.py` of `transformers`."""
    found = published.concept_tensors({f"detector.{name}": torch.zeros(1)})
    assert [*found] == [f"detr_decoder.layers.2.{expected}"]


def test_fused_projections_are_queries_keys_and_values() -> None:
    tensor = torch.arange(6.0)
    for name, own in (
        ("backbone.vision_backbone.trunk.blocks.3.attn.qkv.bias", "vision_encoder"),
        ("transformer.decoder.layers.3.ca_text.in_proj_bias", "detr_decoder"),
    ):
        found = published.concept_tensors({f"detector.{name}": tensor})
        assert all(each.startswith(own) for each in found)
        parts = {each.split(".")[-2]: part.tolist() for each, part in found.items()}
        assert parts == {"q_proj": [0, 1], "k_proj": [2, 3], "v_proj": [4, 5]}


@pytest.fixture(scope="module")
def model() -> Any:
    return random_sam3()


@pytest.fixture(scope="module")
def config(model: Any) -> Any:
    """A configuration of both sides, of the demo's sizes."""
    detector = model.config.to_dict()
    vision = detector["vision_config"]
    width, sizes = vision["fpn_hidden_size"], vision["backbone_config"]
    prompts = {"image_size": sizes["image_size"], "patch_size": sizes["patch_size"]}
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": width, **prompts},
        "mask_decoder_config": {"hidden_size": width, "mlp_dim": 64, "iou_head_hidden_dim": width},
    }
    return Sam3VideoConfig(detector_config=detector, tracker_config=tracker)


@pytest.fixture(scope="module")
def head(config: Any) -> Any:
    torch.manual_seed(2)
    made: Any = VisualHead(config.tracker_config, config.detector_config.vision_config)
    made.no_memory_embedding.data.normal_()
    positions = made.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    made.image_positions.positional_encoding_gaussian_matrix.copy_(positions)
    return made.requires_grad_(False)


def content_of(model: Any, head: Any) -> dict[str, Tensor]:
    """The tensors of both sides by their names in the file, with one that is not used."""
    content = {VIDEO: torch.zeros(7, 1, 1, 4)}
    for convert, own in (
        (published.concept_tensors, model.state_dict()),
        (published.head_tensors, head.state_dict()),
    ):
        for name, shape in shapes_of_the_file():
            if published._UNUSED.fullmatch(name):
                continue
            targets = [*convert({name: torch.empty(shape, device="meta")})]
            if targets and all(target in own for target in targets):
                parts = [own[target] for target in targets]
                content[name] = torch.cat(parts) if len({*targets}) == 3 else parts[0]
    trunk = "detector.backbone.vision_backbone.trunk.pos_embed"
    content[trunk] = torch.cat([torch.zeros_like(content[trunk][:, :1]), content[trunk]], 1)
    text = "detector.backbone.language_backbone.encoder.text_projection"
    content[text] = content[text].T
    return {name: tensor.contiguous().clone() for name, tensor in content.items()}


@pytest.fixture
def file(
    model: Any, head: Any, config: Any, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A small `sam3.pt`, and its configuration in place of the published one."""
    monkeypatch.setattr(published, "config", lambda: config)
    shutil.copy(WEIGHTS / "sam3" / "tokenizer.json", directory)
    torch.save({"model": content_of(model, head)}, directory / "sam3.pt")
    return directory / "sam3.pt"


def changed(file: Path, name: str, tensor: Tensor | None) -> None:
    content = torch.load(file, weights_only=True)["model"]
    if tensor is None:
        del content[name]
    else:
        content[name] = tensor
    torch.save(content, file)  # without the level `model`, as some copies are


def test_a_file_loads_as_both_sides(file: Path, model: Any, head: Any) -> None:
    found = find_sam3(str(file))
    assert (found.name, found.has_head, found.nbytes) == ("sam3.pt", True, file.stat().st_size)
    loaded, processor = load_sam3(found.source, found.name, CPU)
    visual = load_sam3_head(found.source, found.name, CPU)
    assert visual is not None
    for one, other in ((loaded, model), (visual, head)):
        state, expected = one.state_dict(), other.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
        assert not one.training
    image = make_scene(0, (90, 60)).image
    like = Sam3Processor.from_pretrained(WEIGHTS / "sam3")
    (answer,) = ask(ConceptEngine(loaded, processor, "sam3.pt", CPU), image, PROMPTS["text"])
    (expected,) = ask(ConceptEngine(model, like, "random", CPU), image, PROMPTS["text"])
    assert len(answer.scores) > 0
    assert np.allclose(answer.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("detector.transformer.decoder.norm.weight", None, "detr_decoder.output_layer_norm.weight"),
        ("detector.transformer.decoder.other.weight", torch.zeros(1), "detr_decoder.other.weight"),
        ("other.weight", torch.zeros(1), "is not Meta's sam3.pt"),
        ("detector.dot_prod_scoring.hs_proj.bias", torch.zeros(1), "belongs to another model"),
    ],
    ids=["missing", "left over", "other model", "other shape"],
)
def test_a_file_with_other_tensors_is_refused(
    file: Path, name: str, tensor: Tensor | None, message: str
) -> None:
    changed(file, name, tensor)
    with pytest.raises(ModelUnavailableError) as caught:
        load_sam3(str(file), "sam3.pt", CPU)
    assert caught.value.message.startswith("INFERENCE_SAM3_WEIGHTS: sam3.pt ")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("tracker.no_mem_embed", None),
        ("tracker.sam_mask_decoder.other.weight", torch.zeros(1)),
    ],
    ids=["missing", "left over"],
)
def test_a_file_with_another_head_is_refused(file: Path, name: str, tensor: Tensor | None) -> None:
    changed(file, name, tensor)
    with pytest.raises(ModelUnavailableError, match="belongs to another model"):
        load_sam3_head(str(file), "sam3.pt", CPU)


def test_a_corrupt_file_is_refused(file: Path) -> None:
    for damage in (b"", b"<html>", file.read_bytes()[:1000]):
        file.write_bytes(damage)
        with pytest.raises(ModelUnavailableError, match=r"^INFERENCE_SAM3_WEIGHTS: sam3\.pt "):
            load_sam3(str(file), "sam3.pt", CPU)
