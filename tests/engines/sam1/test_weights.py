"""SAM 1's weights in each layout, and weights that are missing, corrupt or of another model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import SamConfig, SamImageProcessor, SamModel

from inference_server.demo import WEIGHTS
from inference_server.engines.base import VisualPrompt, queries
from inference_server.engines.load_weights import load_sam1
from inference_server.engines.sam1 import published, weights
from inference_server.engines.sam1.engine import Sam1Engine
from inference_server.engines.sam1.published import config_of, tensors_of
from inference_server.engines.sam1.weights import (
    SAM1_FILES,
    SAM1_REPOSITORIES,
    SAM1_VERSIONS,
    Sam1Checkpoint,
    find_sam1,
)
from tests.engines.conftest import CPU
from tests.engines.sam1.models import (
    SIDE,
    in_metas_names,
    processor_of,
    random_sam1,
    small_config,
)
from tests.engines.test_load_weights import Trap, assert_same_weights, refusal

SETTING = "INFERENCE_SAM1_WEIGHTS"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SAM 1 and its processor, written by `save_pretrained`."""
    directory = tmp_path_factory.mktemp("saved") / "sam1"
    random_sam1().save_pretrained(directory)
    processor_of().save_pretrained(directory)
    return directory


@pytest.fixture
def copied(saved: Path, directory: Path) -> Path:
    shutil.copytree(saved, directory, dirs_exist_ok=True)
    return directory


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in Meta's format are those of small models."""
    monkeypatch.setattr(published, "config_of", lambda _: small_config())


def only(found: Mapping[str, Sam1Checkpoint]) -> Sam1Checkpoint:
    (checkpoint,) = set(found.values())
    return checkpoint


def write_zeros(path: Path, version: str) -> None:
    """All tensors of a published file as zeros, which takes a few kilobytes."""
    with torch.device("meta"):
        model: Any = SamModel(config_of(version))
    shapes = {name: t.shape for name, t in model.state_dict().items()}
    named = _Shapes(shapes)
    torch.save(
        {
            name: torch.zeros(1).expand(tensor.shape)
            for name, tensor in in_metas_names(named).items()
        },
        path,
    )


class _Shapes:
    """Stands for a model in `in_metas_names`."""

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        self._shapes = shapes

    def state_dict(self) -> dict[str, Tensor]:
        return {name: torch.empty(shape, device="meta") for name, shape in self._shapes.items()}


def answer(model: Any, processor: Any) -> tuple[Any, Any]:
    engine = Sam1Engine(model, processor, "any", CPU)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    embedded = engine.encode([engine.prepare(image)])
    click = VisualPrompt(np.array([[40, 30]], np.float32), np.array([1]))
    (found,) = engine.decode(queries(embedded[0], [click]))
    return found.planes, found.scores


class TestFinding:
    """`find_sam1`."""

    def test_published_repositories(self) -> None:
        found = find_sam1("facebook")
        assert tuple(found) == SAM1_VERSIONS
        for version, checkpoint in found.items():
            assert checkpoint == Sam1Checkpoint(
                SAM1_REPOSITORIES[version], SAM1_REPOSITORIES[version]
            )
            assert find_sam1(checkpoint.name) == {version: checkpoint}

    def test_another_repository_is_used_for_every_version(self) -> None:
        found = find_sam1("someone/my-sam")
        assert tuple(found) == SAM1_VERSIONS
        assert only(found) == Sam1Checkpoint("someone/my-sam", "someone/my-sam")

    def test_none_is_no_model(self) -> None:
        assert find_sam1("none") == {}

    def test_the_demo_is_in_the_package(
        self, copied: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copied.rename(copied.parent / "sam1")
        monkeypatch.setattr(weights, "WEIGHTS", copied.parent)
        found = find_sam1("demo")
        assert tuple(found) == SAM1_VERSIONS
        assert only(found) == Sam1Checkpoint("demo", str(copied.parent / "sam1"))

    @pytest.mark.parametrize(
        ("width", "versions"),
        [
            (768, ["vit_b"]),
            (1024, ["vit_l"]),
            (1280, ["vit_h"]),
            (48, list(SAM1_VERSIONS)),
            (None, ["vit_b"]),
        ],
    )
    def test_a_directory_tells_its_version(
        self, directory: Path, width: int | None, versions: list[str]
    ) -> None:
        vision = {} if width is None else {"hidden_size": width}
        config = {"model_type": "sam", "vision_config": vision}
        (directory / "config.json").write_text(json.dumps(config))
        found = find_sam1(str(directory))
        assert list(found) == versions
        assert only(found) == Sam1Checkpoint("my-weights", str(directory))

    def test_a_directory_serves_the_files_that_it_holds(self, directory: Path) -> None:
        for name in ("sam_vit_b_01ec64.pth", "sam_vit_b_mine.pth", "sam_vit_h_tuned.pth"):
            (directory / name).touch()
        for name in ("sam_vit_t_01ec64.pth", "sam_vit_l_0b3195.pth.part", "sam_vit_l.pth"):
            (directory / name).touch()
        found = find_sam1(str(directory))
        assert {version: c.name for version, c in found.items()} == {
            "vit_b": "sam_vit_b_01ec64.pth",
            "vit_h": "sam_vit_h_tuned.pth",
        }
        assert found["vit_h"].file == directory / "sam_vit_h_tuned.pth"
        assert found["vit_h"].version == "vit_h"
        assert found["vit_h"].source == ""

    @pytest.mark.parametrize("version", SAM1_VERSIONS)
    def test_a_file(self, directory: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        file = directory / SAM1_FILES[version]
        file.touch()
        assert find_sam1(str(file)) == {
            version: Sam1Checkpoint(file.name, file=file, version=version)
        }
        monkeypatch.setenv("HOME", str(directory))
        assert list(find_sam1(f"~/{file.name}")) == [version]

    def refused(self, given: str | Path) -> str:
        return refusal(lambda: find_sam1(str(given)), f"{SETTING}={given}", given=given)

    def test_two_files_of_one_version_are_refused(self, directory: Path) -> None:
        (directory / "sam_vit_l_a.pth").touch()
        (directory / "sam_vit_l_b.pth").touch()
        message = self.refused(directory)
        assert "sam_vit_l_a.pth and sam_vit_l_b.pth" in message

    def test_a_file_of_an_unknown_name_is_refused(self, directory: Path) -> None:
        (directory / "mine.pth").touch()
        assert "sam_vit_h_4b8939.pth" in self.refused(directory / "mine.pth")

    def test_an_empty_directory_is_refused(self, directory: Path) -> None:
        message = self.refused(directory)
        for remedy in (*SAM1_FILES.values(), "hf download", "save_pretrained"):
            assert remedy in message

    @pytest.mark.parametrize(
        "content",
        [
            '{"model_type": "sam2"}',
            "{}",
            "[]",
            "not json",
            "",
            '{"model_type": "sam", "vision_config": 3}',
            '{"model_type": "sam", "vision_config": {"hidden_size": "wide"}}',
            '{"model_type": "sam", "vision_config": {"hidden_size": null}}',
        ],
    )
    def test_a_directory_of_another_kind_of_model_is_refused(
        self, directory: Path, content: str
    ) -> None:
        (directory / "config.json").write_text(content)
        message = self.refused(directory)
        assert "config.json" in message
        assert "SAM 1" in message

    @pytest.mark.parametrize(
        "given", ["/nowhere/at/all", "nowhere", "./no/where", "~/nowhere", "a/b/c", "", "Demo"]
    )
    def test_missing_weights_are_refused(
        self, given: str, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(directory)
        message = self.refused(given)
        for way in ("demo", "none", "directory", "facebook/sam-vit-huge"):
            assert way in message

    def test_no_model_library_is_imported(self) -> None:
        code = (
            "import sys; from inference_server.engines.sam1.weights import find_sam1; "
            "find_sam1('facebook'); "
            "print([name for name in ('torch', 'transformers', 'sam2') if name in sys.modules])"
        )
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        assert result.stdout.strip() == "[]"


class TestLoading:
    """`load_sam1`."""

    def test_a_directory_loads_every_tensor(self, saved: Path) -> None:
        model, processor = load_sam1(only(find_sam1(str(saved))), CPU)
        assert_same_weights(model, random_sam1().state_dict())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert processor.size["longest_edge"] == SIDE

    def test_a_file_of_metas_gives_the_same_answers(
        self, saved: Path, directory: Path, small_files: None
    ) -> None:
        torch.save(in_metas_names(random_sam1()), directory / "sam_vit_b_01ec64.pth")
        model, processor = load_sam1(only(find_sam1(str(directory))), CPU)
        assert_same_weights(model, random_sam1().state_dict())
        from_file = answer(model, processor)
        from_directory = answer(*load_sam1(only(find_sam1(str(saved))), CPU))
        for one, other in zip(from_file, from_directory, strict=True):
            assert np.array_equal(one, other)

    def test_half_precision_becomes_float32(
        self, copied: Path, directory: Path, small_files: None
    ) -> None:
        half = {name: t.half() for name, t in in_metas_names(random_sam1()).items()}
        torch.save(half, directory / "sam_vit_b_01ec64.pth")
        checkpoint = find_sam1(str(directory / "sam_vit_b_01ec64.pth"))["vit_b"]
        model, _ = load_sam1(checkpoint, CPU)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

    def test_a_configuration_of_an_older_release_loads(self, copied: Path) -> None:
        """The published ones were written in 2023, with options that no longer exist."""
        path = copied / "config.json"
        config = json.loads(path.read_text())
        former = {"_name_or_path": "", "add_cross_attention": False, "torch_dtype": None}
        for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
            config[part] |= {**former, "num_beams": 1, "id2label": {"0": "LABEL_0"}}
        config["vision_config"] |= {"projection_dim": 512, "dropout": 0.0, "initializer_factor": 1}
        config |= {"_commit_hash": None, "torch_dtype": "float32", "transformers_version": None}
        path.write_text(json.dumps(config))
        model, _ = load_sam1(only(find_sam1(str(copied))), CPU)
        assert_same_weights(model, random_sam1().state_dict())

    def test_means_of_the_processor_are_used(self, copied: Path) -> None:
        config = json.loads((copied / "processor_config.json").read_text())["image_processor"]
        (copied / "processor_config.json").unlink()
        config["image_mean"] = [0.1, 0.2, 0.3]
        (copied / "preprocessor_config.json").write_text(json.dumps(config))  # as published
        _, processor = load_sam1(only(find_sam1(str(copied))), CPU)
        assert list(processor.image_mean) == [0.1, 0.2, 0.3]

    def test_a_model_that_was_saved_alone_is_normalised_as_the_published_ones(
        self, copied: Path
    ) -> None:
        (copied / "processor_config.json").unlink()
        _, processor = load_sam1(only(find_sam1(str(copied))), CPU)
        assert list(processor.image_mean) == list(SamImageProcessor().image_mean)

    @pytest.mark.parametrize("version", SAM1_VERSIONS)
    def test_each_size_takes_its_own_file(self, directory: Path, version: str) -> None:
        """Names and shapes only, because vit_h has 640 million parameters."""
        write_zeros(directory / SAM1_FILES[version], version)
        config = config_of(version)
        sizes = {"vit_b": (768, 12), "vit_l": (1024, 24), "vit_h": (1280, 32)}
        vision: Any = config.vision_config
        assert (vision.hidden_size, vision.num_hidden_layers) == sizes[version]
        assert len(vision.global_attn_indexes) == 4
        state = torch.load(directory / SAM1_FILES[version], weights_only=True)
        # Names and counts of tensors of the files that Meta publishes.
        assert len(state) == {"vit_b": 314, "vit_l": 482, "vit_h": 594}[version]
        for name in (
            "image_encoder.blocks.0.attn.rel_pos_h",
            "image_encoder.neck.3.bias",
            "image_encoder.patch_embed.proj.weight",
            "image_encoder.pos_embed",
            "mask_decoder.iou_prediction_head.layers.2.weight",
            "mask_decoder.output_hypernetworks_mlps.3.layers.1.bias",
            "mask_decoder.output_upscaling.3.weight",
            "mask_decoder.transformer.final_attn_token_to_image.out_proj.weight",
            "mask_decoder.transformer.layers.1.mlp.lin2.bias",
            "mask_decoder.transformer.layers.1.norm4.weight",
            "mask_decoder.transformer.norm_final_attn.bias",
            "prompt_encoder.mask_downscaling.6.weight",
            "prompt_encoder.not_a_point_embed.weight",
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
            "prompt_encoder.point_embeddings.3.weight",
        ):
            assert name in state
        with torch.device("meta"):
            model: Any = SamModel(config)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        assert {name: tensor.shape for name, tensor in tensors_of(state).items()} == shapes

    def test_a_published_file_loads_at_full_size(self, directory: Path) -> None:
        """Its image encoder takes a minute, so nothing is encoded."""
        write_zeros(directory / SAM1_FILES["vit_b"], "vit_b")
        model, processor = load_sam1(only(find_sam1(str(directory))), CPU)
        assert not any(parameter.any() for parameter in model.parameters())
        assert Sam1Engine(model, processor, "any", CPU).side == 1024

    def test_constants_of_preprocessing_are_ignored(
        self, directory: Path, small_files: None
    ) -> None:
        state = {**in_metas_names(random_sam1()), "pixel_mean": torch.zeros(3, 1, 1)}
        torch.save(state, directory / "sam_vit_b_01ec64.pth")
        load_sam1(only(find_sam1(str(directory))), CPU)

    def refused(self, checkpoint: Sam1Checkpoint) -> str:
        given = checkpoint.file or checkpoint.source
        message = refusal(
            lambda: load_sam1(checkpoint, CPU), f"{SETTING}: {checkpoint.name}", given=given
        )
        assert any(way in message for way in ("Download it again", "files are complete"))
        return message

    def test_files_that_do_not_fit_are_refused(self, directory: Path, small_files: None) -> None:
        state = in_metas_names(random_sam1())
        file = directory / "sam_vit_b_01ec64.pth"
        file.touch()
        checkpoint = only(find_sam1(str(directory)))
        name = "image_encoder.blocks.1.norm1.weight"
        lacking = {key: value for key, value in state.items() if key != name}
        contents: dict[str, object] = {
            "vision_encoder.layers.1.layer_norm1.weight": lacking,
            "another model": {**state, name: state[name][:-1]},
            "surplus": {**state, "surplus": torch.zeros(1)},
            "are missing": {"bert.embeddings.weight": torch.zeros(3)},
            "belongs to another model": {"model": state},
            "corrupt or": [1, 2],
        }
        for expected, content in contents.items():
            torch.save(content, file)
            assert expected in self.refused(checkpoint)

    def test_a_file_under_anothers_name_is_refused(self, directory: Path) -> None:
        write_zeros(directory / "sam_vit_l_0b3195.pth", "vit_b")
        assert "of a vit_l are missing" in self.refused(only(find_sam1(str(directory))))

    def test_corrupt_files_are_refused(self, directory: Path, small_files: None) -> None:
        file = directory / "sam_vit_b_01ec64.pth"
        torch.save(in_metas_names(random_sam1()), file)
        whole = file.read_bytes()
        checkpoint = only(find_sam1(str(directory)))
        for damage in (b"", b"<html>Sign in</html>", whole[:1000], whole[:-100_000]):
            file.write_bytes(damage)
            self.refused(checkpoint)
        file.unlink()
        assert "could not be read" in self.refused(checkpoint)

    def test_code_in_a_file_is_not_run(self, directory: Path) -> None:
        torch.save({"image_encoder.pos_embed": Trap()}, directory / "sam_vit_b_01ec64.pth")
        self.refused(only(find_sam1(str(directory))))
        assert not Trap.sprung

    @pytest.mark.parametrize(
        "name", ["vision_encoder.layers.1.attn.rel_pos_h", "mask_decoder.upscale_conv1.weight"]
    )
    def test_a_directory_that_lacks_a_tensor_is_refused(self, copied: Path, name: str) -> None:
        """`from_pretrained` would initialise it at random and only warn."""
        state = load_file(copied / "model.safetensors")
        del state[name]
        save_file(state, copied / "model.safetensors", {"format": "pt"})
        message = self.refused(only(find_sam1(str(copied))))
        assert "lacks 1 of the model's tensors" in message
        assert name in message

    def test_corrupt_directories_are_refused(self, copied: Path) -> None:
        checkpoint = only(find_sam1(str(copied)))
        whole = (copied / "model.safetensors").read_bytes()
        for damage in (b"", b"<html>Sign in</html>", whole[:1000], whole[: len(whole) // 2]):
            (copied / "model.safetensors").write_bytes(damage)
            self.refused(checkpoint)
        (copied / "model.safetensors").unlink()
        self.refused(checkpoint)

    def test_input_sizes_that_contradict_each_other_are_refused(self, copied: Path) -> None:
        config = json.loads((copied / "config.json").read_text())
        config["prompt_encoder_config"]["image_size"] = 2 * SIDE
        (copied / "config.json").write_text(json.dumps(config))
        assert f"{SIDE} and {2 * SIDE}" in self.refused(only(find_sam1(str(copied))))

    def test_another_model_is_refused(self, saved: Path) -> None:
        """As a Hugging Face id may name one."""
        directory = WEIGHTS / "sam3"
        message = self.refused(Sam1Checkpoint("facebook/sam3", str(directory)))
        assert "sam3" in message

    def test_the_hub_out_of_reach_is_explained(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        message = self.refused(find_sam1("facebook/sam-vit-base")["vit_b"])
        assert "network" in message


def test_the_configuration_of_vit_b_is_the_default() -> None:
    assert config_of("vit_b").to_dict() == SamConfig().to_dict()
