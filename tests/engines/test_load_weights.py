"""Weights in the published layouts, and weights that are missing, corrupt or of another model."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

import huggingface_hub.constants
import hydra
import numpy as np
import pytest
import sam2
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from transformers import AutoConfig, Sam3Processor, Sam3VideoModel

from inference_server.demo import WEIGHTS
from inference_server.engines import load_weights
from inference_server.engines.base import VisualPrompt, queries
from inference_server.engines.load_weights import load_sam2, load_sam3, load_sam3_head
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.sam3.trunk import planes_of
from inference_server.engines.weights import (
    SAM2_VERSIONS,
    Sam2Checkpoint,
    Sam3Checkpoint,
    find_sam2,
    find_sam3,
)
from inference_server.errors import ModelUnavailableError
from tests.checkpoints import write_published_sam3
from tests.engines.conftest import CPU, random_sam2, random_sam3, sam2_config
from tests.engines.sam3.test_engine import PROMPTS, ask

FILES = {
    "hiera_tiny": "sam2.1_hiera_tiny.pt",
    "hiera_small": "sam2.1_hiera_small.pt",
    "hiera_b_plus": "sam2.1_hiera_base_plus.pt",
    "hiera_large": "sam2.1_hiera_large.pt",
}
"""Names of the files that Meta publishes, by version."""


def refusal(call: Callable[[], object], setting: str, *, given: str | Path = "") -> str:
    """The message of the error that a call raises.

    It must name the setting, and no local path except the configured one.
    """
    with pytest.raises(ModelUnavailableError) as caught:
        call()
    message = caught.value.message
    assert caught.value.status == 503
    assert message.startswith(setting)
    rest = message.replace(str(given), "") if given else message
    for secret in ("/tmp", str(Path.home()), "site-packages", ".cache"):
        assert secret not in rest
    assert "\n" not in message
    return message


def packaged_config(version: str, release: str = "2.1") -> Any:
    """The configuration in the package `sam2` for a published file."""
    wanted = FILES[version].replace("sam2.1", f"sam{release}")
    (config,) = (c for c, file in HF_MODEL_ID_TO_FILENAMES.values() if file == wanted)
    return OmegaConf.load(Path(sam2.__path__[0]) / config)


def write_shapes(path: Path, version: str, release: str = "2.1") -> None:
    """All tensors of a published file, as zeros, which takes 10 ms and a few kilobytes."""
    config = packaged_config(version, release)
    OmegaConf.resolve(config)
    # Hiera reads values from a tensor while it is built; meta tensors have none.
    real = torch.linspace
    with torch.device("meta"), patch("torch.linspace", partial(real, device="cpu")):
        model = hydra.utils.instantiate(config.model, _recursive_=True)
    state = {
        name: torch.zeros(1).expand(tensor.shape) for name, tensor in model.state_dict().items()
    }
    torch.save({"model": state}, path)


def write_random(path: Path, version: str, release: str = "2.1") -> dict[str, torch.Tensor]:
    """Write a file with random weights in the published format."""
    torch.manual_seed(0)
    model = hydra.utils.instantiate(packaged_config(version, release).model, _recursive_=True)
    state: dict[str, torch.Tensor] = model.state_dict()
    torch.save({"model": state}, path)
    return state


def write_custom(directory: Path) -> dict[str, torch.Tensor]:
    """Write a directory with a custom configuration, like the demo."""
    state: dict[str, torch.Tensor] = random_sam2().state_dict()
    OmegaConf.save(sam2_config(), directory / "config.yaml")
    torch.save({"model": state}, directory / "model.pt")
    return state


def assert_same_weights(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


class TestSam2:
    """`INFERENCE_SAM2_WEIGHTS`."""

    def test_a_published_file_loads_and_answers_a_click(self, directory: Path) -> None:
        """At full size, so only the smallest of the four versions."""
        file = directory / "sam2.1_hiera_tiny.pt"
        state = write_random(file, "hiera_tiny")
        found = find_sam2(str(file))
        assert list(found) == ["hiera_tiny"]
        checkpoint = found["hiera_tiny"]
        assert checkpoint.name == file.name
        model = load_sam2(checkpoint, CPU)
        assert_same_weights(model, state)
        engine = VisualEngine(model, checkpoint.name, CPU)
        (embedding,) = engine.encode([engine.prepare(np.zeros((90, 160, 3), np.uint8))])
        click = VisualPrompt(np.array([[80, 45]], np.float32), np.array([1]))
        (answer,) = engine.decode(queries(embedding, [click]))
        assert answer.planes.shape == (3, 256, 256)
        assert np.isfinite(answer.planes).all()

    @pytest.mark.parametrize("version", SAM2_VERSIONS[1:])
    def test_each_size_takes_its_own_file(self, directory: Path, version: str) -> None:
        """Compares names and shapes only, because the large one has 224 million parameters."""
        for other in SAM2_VERSIONS:
            (directory / FILES[other]).write_bytes(b"not this one")
        write_shapes(directory / FILES[version], version)
        found = find_sam2(str(directory))
        assert list(found) == list(SAM2_VERSIONS)
        assert [found[v].name for v in SAM2_VERSIONS] == list(FILES.values())
        model = load_sam2(found[version], CPU)
        assert model.image_size == 1024
        assert all(not parameter.any() for parameter in model.parameters())

    def test_an_older_file_takes_the_older_configuration(self, directory: Path) -> None:
        write_shapes(directory / "sam2_hiera_tiny.pt", "hiera_tiny", "2")
        (checkpoint,) = find_sam2(str(directory / "sam2_hiera_tiny.pt")).values()
        assert checkpoint.name == "sam2_hiera_tiny.pt"
        assert load_sam2(checkpoint, CPU).image_size == 1024

    def test_a_directory_serves_the_files_that_it_holds(self, directory: Path) -> None:
        (directory / "sam2.1_hiera_small.pt").touch()
        (directory / "sam2_hiera_small.pt").touch()
        (directory / "sam2_hiera_large.pt").touch()
        (directory / "sam2.1_hiera_huge.pt").touch()
        found = find_sam2(str(directory))
        # The newer release takes precedence.
        assert {version: checkpoint.name for version, checkpoint in found.items()} == {
            "hiera_small": "sam2.1_hiera_small.pt",
            "hiera_large": "sam2_hiera_large.pt",
        }
        assert found["hiera_small"].config.name == "sam2.1_hiera_s.yaml"
        assert found["hiera_large"].config.name == "sam2_hiera_l.yaml"

    def test_a_configuration_of_its_own_answers_for_every_size(self, directory: Path) -> None:
        state = write_custom(directory)
        found = find_sam2(str(directory))
        assert list(found) == list(SAM2_VERSIONS)
        assert len(set(found.values())) == 1
        assert found["hiera_large"].name == "my-weights"
        model = load_sam2(found["hiera_large"], CPU)
        assert_same_weights(model, state)
        # Options that `build_sam2` adds for inference.
        assert model.sam_mask_decoder.dynamic_multimask_via_stability is True

    def test_the_demo_is_such_a_directory(self) -> None:
        found = find_sam2("demo")
        assert {checkpoint.name for checkpoint in found.values()} == {"demo"}
        assert list(found) == list(SAM2_VERSIONS)
        load_sam2(found["hiera_tiny"], CPU)

    def test_published_repositories_by_name(self) -> None:
        for version, checkpoint in find_sam2("facebook").items():
            config, file = HF_MODEL_ID_TO_FILENAMES[str(checkpoint.repository)]
            assert (checkpoint.filename, file) == (FILES[version], FILES[version])
            assert str(checkpoint.config).endswith(config)
            assert checkpoint.config.is_file()
        for repository, (config, file) in HF_MODEL_ID_TO_FILENAMES.items():
            ((version, checkpoint),) = find_sam2(repository).items()
            assert checkpoint.name == checkpoint.repository == repository
            assert checkpoint.filename == file
            assert str(checkpoint.config).endswith(config)
            assert checkpoint.file is None

    def test_a_repository_is_downloaded_when_it_is_loaded(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_shapes(directory / "blob", "hiera_tiny")
        asked = []

        def download(repository: str, filename: str) -> str:
            asked.append((repository, filename))
            return str(directory / "blob")

        monkeypatch.setattr(load_weights, "hf_hub_download", download)
        found = find_sam2("facebook/sam2.1-hiera-tiny")
        assert asked == []
        load_sam2(found["hiera_tiny"], CPU)
        assert asked == [("facebook/sam2.1-hiera-tiny", "sam2.1_hiera_tiny.pt")]

    def test_a_home_directory_may_be_abbreviated(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(directory.parent))
        (directory / "sam2.1_hiera_tiny.pt").touch()
        assert list(find_sam2("~/my-weights")) == ["hiera_tiny"]

    def test_an_empty_directory_is_refused(self, directory: Path) -> None:
        (directory / "config.yaml").touch()  # without model.pt
        message = self.not_found(directory)
        for file in (*FILES.values(), "sam2_hiera_*.pt", "config.yaml", "model.pt"):
            assert file in message

    def test_a_file_of_an_unknown_name_is_refused(self, directory: Path) -> None:
        (directory / "mine.pt").touch()
        assert "sam2.1_hiera_large.pt" in self.not_found(directory / "mine.pt")

    @pytest.mark.parametrize("weights", ["/nowhere/at/all", "nowhere", "facebook/sam3", "", "Demo"])
    def test_missing_weights_are_refused(
        self, weights: str, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(directory)
        message = self.not_found(weights)
        for way in ("demo", "directory", "facebook/sam2.1-hiera-large"):
            assert way in message

    def not_found(self, weights: str | Path) -> str:
        setting = f"INFERENCE_SAM2_WEIGHTS={weights}"
        return refusal(lambda: find_sam2(str(weights)), setting, given=weights)

    def not_loaded(self, checkpoint: Sam2Checkpoint) -> str:
        message = refusal(
            lambda: load_sam2(checkpoint, CPU),
            f"INFERENCE_SAM2_WEIGHTS: {checkpoint.name}",
            given=checkpoint.file or "",
        )
        assert checkpoint.name in message
        return message

    def test_corrupt_files_are_refused(self, directory: Path) -> None:
        write_custom(directory)
        whole = (directory / "model.pt").read_bytes()
        checkpoint = find_sam2(str(directory))["hiera_tiny"]
        for damage in (b"", b"<html>Sign in</html>", whole[:1000], whole[:-100_000]):
            (directory / "model.pt").write_bytes(damage)
            assert "Download it again" in self.not_loaded(checkpoint)

    def test_weights_that_do_not_fit_are_refused(self, directory: Path) -> None:
        state = write_custom(directory)
        checkpoint = find_sam2(str(directory))["hiera_tiny"]
        name = "image_encoder.trunk.pos_embed"
        lacking = {key: value for key, value in state.items() if key != name}
        misshapen = {**state, name: state[name][:, 1:]}
        contents: tuple[object, ...] = (
            {"model": lacking},
            {"model": misshapen},
            {"model": {**state, "surplus": torch.zeros(1)}},
            {"model": {}},
            {"state_dict": state},
            state,
            [1, 2],
        )
        for content in contents:
            torch.save(content, directory / "model.pt")
            assert "another model" in self.not_loaded(checkpoint)

    @pytest.mark.parametrize(
        ("held", "called"),
        [
            ("sam2.1_hiera_tiny.pt", "sam2_hiera_tiny.pt"),
            ("sam2.1_hiera_tiny.pt", "sam2.1_hiera_small.pt"),
        ],
    )
    def test_a_file_under_anothers_name_is_refused(
        self, directory: Path, held: str, called: str
    ) -> None:
        write_shapes(directory / held, "hiera_tiny")
        (directory / held).rename(directory / called)
        (checkpoint,) = find_sam2(str(directory)).values()
        assert "another model" in self.not_loaded(checkpoint)

    def test_code_in_a_file_is_not_run(self, directory: Path) -> None:
        write_custom(directory)
        checkpoint = find_sam2(str(directory))["hiera_tiny"]
        torch.save({"model": Trap()}, directory / "model.pt")
        self.not_loaded(checkpoint)
        assert not Trap.sprung

    def test_a_configuration_that_makes_no_model_is_refused(self, directory: Path) -> None:
        write_custom(directory)
        checkpoint = find_sam2(str(directory))["hiera_tiny"]
        for text in ("", "model: {}", "model:\n  _target_: no.such.thing\n", "a: [", "other: 1"):
            (directory / "config.yaml").write_text(text)
            self.not_loaded(checkpoint)

    def test_a_file_that_is_gone_is_refused(self, directory: Path) -> None:
        write_custom(directory)
        checkpoint = find_sam2(str(directory))["hiera_tiny"]
        (directory / "model.pt").unlink()
        assert "could not be read" in self.not_loaded(checkpoint)

    def test_the_hub_out_of_reach_is_explained(self, offline: None) -> None:
        (checkpoint,) = find_sam2("facebook/sam2.1-hiera-tiny").values()
        message = self.not_loaded(checkpoint)
        assert "network" in message
        assert "name the directory" in message

    @pytest.mark.parametrize(
        ("kind", "remedy"),
        [(GatedRepoError, "hf auth login"), (RepositoryNotFoundError, "HF_TOKEN")],
    )
    def test_a_repository_that_is_closed_is_explained(
        self, kind: type[HfHubHTTPError], remedy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(load_weights, "hf_hub_download", raising(kind))
        (checkpoint,) = find_sam2("facebook/sam2.1-hiera-tiny").values()
        assert remedy in self.not_loaded(checkpoint)


class Trap:
    """An object that records that it was unpickled."""

    sprung = False

    def __setstate__(self, state: object) -> None:
        Trap.sprung = True

    def __reduce__(self) -> tuple[Any, ...]:
        return Trap, (), {"any": "state"}


def raising(kind: type[HfHubHTTPError]) -> Callable[..., Any]:
    """A function that raises an error of the Hugging Face client."""

    def fail(*_: object, **__: object) -> None:
        response: Any = Mock(status_code=403, headers={})
        raise kind("403 Client Error.\n\nCannot access gated repo.", response=response)

    return fail


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Equals `HF_HUB_OFFLINE=1` with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="session")
def saved_sam3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM 3 and its processor, written by `save_pretrained`."""
    directory = tmp_path_factory.mktemp("saved") / "sam3"
    random_sam3().save_pretrained(directory)
    Sam3Processor.from_pretrained(WEIGHTS / "sam3").save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def saved_sam3_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM 3 in the published layout, with a detector and a tracker in one model."""
    directory = tmp_path_factory.mktemp("saved") / "sam3-video"
    write_published_sam3(directory, random_sam3())
    prefixes = {key.split(".")[0] for key in load_file(directory / "model.safetensors")}
    assert prefixes == {"detector_model", "tracker_model", "tracker_neck"}
    return directory


class TestSam3:
    """`INFERENCE_SAM3_WEIGHTS`."""

    @pytest.mark.parametrize("layout", ["saved_sam3", "saved_sam3_video"])
    def test_both_layouts_load_every_tensor_and_answer_alike(
        self, layout: str, request: pytest.FixtureRequest
    ) -> None:
        directory: Path = request.getfixturevalue(layout)
        found = find_sam3(str(directory))
        source, name = found.source, found.name
        assert (source, name) == (str(directory), directory.name)
        model, processor = load_sam3(source, name, CPU)
        expected = random_sam3()
        assert_same_weights(model, expected.state_dict())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        image = np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3)
        prompts = [PROMPTS["text"], PROMPTS["text and boxes"]]
        answers = ask(ConceptEngine(model, processor, name, CPU), image, *prompts)
        likes = ask(ConceptEngine(expected, processor, name, CPU), image, *prompts)
        for answer, like in zip(answers, likes, strict=True):
            assert len(answer.scores) > 0
            assert np.allclose(answer.scores, like.scores, atol=1e-5)

    @pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
    def test_the_published_layout_has_a_visual_head(
        self, saved_sam3_video: Path, directory: Path, sharded: bool
    ) -> None:
        video: Any = Sam3VideoModel.from_pretrained(saved_sam3_video)
        source = saved_sam3_video
        if sharded:
            source = directory / "sharded"
            video.save_pretrained(source, max_shard_size="1MB")
            assert not (source / "model.safetensors").exists()
        head = load_sam3_head(str(source), "video", CPU)
        assert head is not None
        backbone = video.config.detector_config.vision_config.backbone_config
        side = backbone.image_size // backbone.patch_size
        hidden = torch.randn(2, side**2, backbone.hidden_size)
        with torch.inference_mode():
            output = SimpleNamespace(last_hidden_state=hidden)
            expected, _ = video.get_vision_features_for_tracker(output)
            coarse, fine = head.features(planes_of(hidden))
        coarse = coarse - head.no_memory_embedding.view(1, -1, 1, 1)
        for found, like in zip([*fine, coarse], expected, strict=True):
            assert torch.allclose(found.flatten(2).permute(2, 0, 1), like, atol=1e-5)

    def test_the_other_layout_has_no_visual_head(self, saved_sam3: Path) -> None:
        assert load_sam3_head(str(saved_sam3), "sam3", CPU) is None

    def test_a_visual_head_that_lacks_a_tensor_is_refused(
        self, saved_sam3_video: Path, directory: Path
    ) -> None:
        shutil.copytree(saved_sam3_video, directory, dirs_exist_ok=True)
        state = load_file(directory / "model.safetensors")
        del state["tracker_neck.fpn_layers.0.proj1.weight"]
        save_file(state, directory / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelUnavailableError, match="is corrupt or belongs to another model"):
            load_sam3_head(str(directory), "video", CPU)

    def test_half_precision_files_are_computed_with_in_float32(
        self, saved_sam3: Path, directory: Path
    ) -> None:
        shutil.copytree(saved_sam3, directory, dirs_exist_ok=True)
        state = load_file(directory / "model.safetensors")
        half = {name: tensor.half() for name, tensor in state.items()}
        save_file(half, directory / "model.safetensors", {"format": "pt"})
        model, _ = load_sam3(str(directory), "half", CPU)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

    def test_the_demo_is_such_a_directory(self) -> None:
        found = find_sam3("demo")
        source, name = found.source, found.name
        assert name == "demo"
        model, processor = load_sam3(source, name, CPU)
        words = processor.tokenizer("red circle", padding="max_length", max_length=32)
        assert len(words["input_ids"]) == 32
        config: Any = model.config.text_config
        assert max(words["input_ids"]) < config.vocab_size

    def test_an_id_is_taken_as_it_is(self) -> None:
        assert find_sam3("facebook/sam3") == Sam3Checkpoint("facebook/sam3", "facebook/sam3")
        assert find_sam3("facebook/sam3").has_head

    def not_found(self, weights: str | Path) -> str:
        setting = f"INFERENCE_SAM3_WEIGHTS={weights}"
        return refusal(lambda: find_sam3(str(weights)), setting, given=weights)

    def not_loaded(self, directory: Path) -> str:
        message = refusal(
            lambda: load_sam3(str(directory), "my-weights", CPU),
            "INFERENCE_SAM3_WEIGHTS: my-weights",
            given=directory,
        )
        assert any(remedy in message for remedy in ("Download it again", "files are complete"))
        return message

    @pytest.mark.parametrize(
        "weights", ["/nowhere/at/all", "nowhere", "./no/where", "~/nowhere", "a/b/c", "", "Demo"]
    )
    def test_missing_weights_are_refused(
        self, weights: str, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(directory)
        message = self.not_found(weights)
        for way in ("demo", "directory", "facebook/sam3"):
            assert way in message

    def test_an_empty_directory_is_refused(self, directory: Path) -> None:
        message = self.not_found(directory)
        assert "config.json" in message
        assert "hf download facebook/sam3" in message

    def test_a_directory_of_another_kind_of_model_is_refused(
        self, saved_sam3: Path, directory: Path
    ) -> None:
        """Refused by its config.json, before a SAM 3 is created."""
        shutil.copytree(saved_sam3, directory, dirs_exist_ok=True)
        for content in ('{"model_type": "bert"}', "{}", "[]", "not json", ""):
            (directory / "config.json").write_text(content)
            message = self.not_found(directory)
            assert "config.json" in message
            assert "SAM 3" in message

    @pytest.mark.parametrize("layout", ["saved_sam3", "saved_sam3_video"])
    def test_a_file_that_lacks_a_tensor_is_refused(
        self, layout: str, directory: Path, request: pytest.FixtureRequest
    ) -> None:
        """`from_pretrained` would initialise missing tensors at random and only warn."""
        shutil.copytree(request.getfixturevalue(layout), directory, dirs_exist_ok=True)
        state = load_file(directory / "model.safetensors")
        name = next(key for key in state if "detr_decoder" in key)
        del state[name]
        save_file(state, directory / "model.safetensors", {"format": "pt"})
        message = self.not_loaded(directory)
        assert "lacks 1 of the model's tensors" in message
        assert name.removeprefix("detector_model.") in message

    def test_weights_of_another_size_are_refused(self, saved_sam3: Path, directory: Path) -> None:
        shutil.copytree(saved_sam3, directory, dirs_exist_ok=True)
        state = load_file(directory / "model.safetensors")
        name = "text_projection.weight"
        state[name] = state[name][:, :-1].contiguous()
        save_file(state, directory / "model.safetensors", {"format": "pt"})
        self.not_loaded(directory)

    def test_weights_of_another_model_are_refused(self, saved_sam3: Path, directory: Path) -> None:
        shutil.copytree(saved_sam3, directory, dirs_exist_ok=True)
        state = {"bert.embeddings.weight": torch.zeros(3)}
        save_file(state, directory / "model.safetensors", {"format": "pt"})
        assert "tensors" in self.not_loaded(directory)

    def test_corrupt_files_are_refused(self, saved_sam3: Path, directory: Path) -> None:
        shutil.copytree(saved_sam3, directory, dirs_exist_ok=True)
        whole = (directory / "model.safetensors").read_bytes()
        for damage in (b"", b"<html>Sign in</html>", whole[:1000], whole[: len(whole) // 2]):
            (directory / "model.safetensors").write_bytes(damage)
            self.not_loaded(directory)
        # The file that `git clone` writes without git-lfs.
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3439938512\n"
        (directory / "model.safetensors").write_text(pointer)
        self.not_loaded(directory)
        (directory / "model.safetensors").write_bytes(whole)
        for name in ("tokenizer.json", "processor_config.json", "tokenizer_config.json"):
            text = (directory / name).read_text()
            (directory / name).write_text(text[: len(text) // 2])
            self.not_loaded(directory)
            (directory / name).write_text(text)

    @pytest.mark.parametrize(
        "missing",
        ["model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"],
    )
    def test_a_missing_file_is_refused(
        self, saved_sam3: Path, directory: Path, missing: str
    ) -> None:
        shutil.copytree(saved_sam3, directory, dirs_exist_ok=True)
        (directory / missing).unlink()
        if missing.startswith("tokenizer"):
            assert missing in self.not_found(directory)
        else:
            find_sam3(str(directory))
            self.not_loaded(directory)

    def test_the_hub_out_of_reach_is_explained(self, offline: None) -> None:
        found = find_sam3("nobody/no-such-sam3")
        source, name = found.source, found.name
        message = refusal(lambda: load_sam3(source, name, CPU), f"INFERENCE_SAM3_WEIGHTS: {name}")
        assert "network" in message
        assert "name the directory" in message

    @pytest.mark.parametrize(
        ("kind", "remedy"),
        [(GatedRepoError, "hf auth login"), (RepositoryNotFoundError, "HF_TOKEN")],
    )
    @pytest.mark.parametrize("where", ["hub", "transformers"])
    def test_a_repository_that_is_closed_is_explained(
        self, kind: type[HfHubHTTPError], remedy: str, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`transformers` wraps the errors of the Hugging Face client in an `OSError`."""
        if where == "hub":
            monkeypatch.setattr(AutoConfig, "from_pretrained", raising(kind))
        else:
            monkeypatch.setattr("transformers.utils.hub.hf_hub_download", raising(kind))
            monkeypatch.setattr("transformers.utils.hub.snapshot_download", raising(kind))
        message = refusal(
            lambda: load_sam3("facebook/sam3", "facebook/sam3", CPU),
            "INFERENCE_SAM3_WEIGHTS: facebook/sam3",
        )
        assert remedy in message
        assert ("gated" in message) == (kind is GatedRepoError)


def test_transformers_loads_one_model_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It replaces functions of PyTorch meanwhile, and two threads would leave them replaced."""
    inside, most = 0, 0
    entered, leave = threading.Semaphore(0), threading.Semaphore(0)

    class Kind:
        @classmethod
        def from_pretrained(cls, *_: object, **__: object) -> tuple[str, dict[str, list[str]]]:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            entered.release()
            assert leave.acquire(timeout=60)
            inside -= 1
            return "model", {"missing_keys": [], "mismatched_keys": []}

    def load() -> str:
        return str(load_weights._pretrained(Kind, "x", "INFERENCE_SAM3_WEIGHTS", "x"))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load)
        assert entered.acquire(timeout=60)
        assert load_weights._LOADING.locked()
        second = pool.submit(load)
        leave.release()
        assert first.result(60) == "model"
        assert entered.acquire(timeout=60)
        leave.release()
        assert second.result(60) == "model"
    assert most == 1
