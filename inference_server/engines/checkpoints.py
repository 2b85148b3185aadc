"""Where weights come from: the package, a directory, a file, or a Hugging Face id.

Every way leads into the unmodified classes of `sam2` and `transformers`, loaded strictly: weights
that do not fit are refused and never filled up with random ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import sam2
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from omegaconf import OmegaConf
from sam2.modeling.sam2_base import SAM2Base
from transformers import Sam3Model, Sam3Processor

from inference_server.demo import WEIGHTS
from inference_server.engines.device import Compute
from inference_server.errors import ModelUnavailableError

logger = logging.getLogger(__name__)

SAM2_VERSIONS: tuple[str, ...] = ("hiera_tiny", "hiera_small", "hiera_b_plus", "hiera_large")
"""The sizes of SAM 2, by the names that requests use."""

_CONFIG_DIRECTORY = Path(sam2.__path__[0]) / "configs"
_PUBLISHED = {
    "hiera_tiny": ("tiny", "t", "tiny"),
    "hiera_small": ("small", "s", "small"),
    "hiera_b_plus": ("base_plus", "b+", "base-plus"),
    "hiera_large": ("large", "l", "large"),
}
"""A size's name in published file names, configuration names and repository names."""

_RELEASES = ("2.1", "2")
"""Newest first."""

_SAM3_TYPES = ("sam3", "sam3_video")
"""The layouts of a SAM 3 directory, by `model_type`."""

_CUSTOM_CONFIG, _CUSTOM_WEIGHTS = "config.yaml", "model.pt"

_INFERENCE_OPTIONS = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}
"""What `sam2.build_sam.build_sam2` adds to a configuration for inference."""


@dataclass(frozen=True)
class Sam2Checkpoint:
    """Weights of one SAM 2 model, found but not loaded.

    Attributes:
        name: for people; never a path of this machine.
        config: a configuration with the key `model`.
        file: local weights, or None if they are on the hub.
        repository: Hugging Face id, or None if they are local.
        filename: inside of the repository.
    """

    name: str
    config: Path
    file: Path | None = None
    repository: str | None = None
    filename: str = ""


def _config_of(version: str, release: str) -> Path:
    size = _PUBLISHED[version][1]
    return _CONFIG_DIRECTORY / f"sam{release}" / f"sam{release}_hiera_{size}.yaml"


def _file_of(version: str, release: str) -> str:
    return f"sam{release}_hiera_{_PUBLISHED[version][0]}.pt"


def find_sam2(weights: str) -> dict[str, Sam2Checkpoint]:
    """Resolve the setting `sam2_weights` without loading anything.

    Args:
        weights: `demo`, a directory, a file, `facebook`, or a Hugging Face id.

    Returns:
        Checkpoints by version; versions that the setting has no weights for are left out. One
        checkpoint with a configuration of its own, such as the demo, answers for every version.

    Raises:
        ModelUnavailableError: the setting names nothing that exists.
    """
    path = WEIGHTS / "sam2" if weights == "demo" else Path(weights).expanduser()
    setting = f"INFERENCE_SAM2_WEIGHTS={weights}"
    if weights and path.is_dir():
        found = _in_directory(path, "demo" if weights == "demo" else path.name)
        if not found:
            expected = ", ".join(_file_of(version, "2.1") for version in SAM2_VERSIONS)
            raise ModelUnavailableError(
                f"{setting}: the directory holds no SAM 2 weights. Put at least one of {expected} "
                f"(or the older sam2_hiera_*.pt) into it, or {_CUSTOM_CONFIG} with "
                f"{_CUSTOM_WEIGHTS}."
            )
        return found
    if path.is_file():
        for version in SAM2_VERSIONS:
            for release in _RELEASES:
                if path.name == _file_of(version, release):
                    config = _config_of(version, release)
                    return {version: Sam2Checkpoint(path.name, config, file=path)}
        raise ModelUnavailableError(
            f"{setting}: cannot tell the model's size from this file's name. "
            f"Give it its published name, such as {_file_of('hiera_large', '2.1')}."
        )
    if weights == "facebook":
        return {version: _on_hub(version, "2.1") for version in SAM2_VERSIONS}
    for version in SAM2_VERSIONS:
        for release in _RELEASES:
            checkpoint = _on_hub(version, release)
            if checkpoint.repository == weights:
                return {version: checkpoint}
    raise ModelUnavailableError(
        f"{setting}: no such directory or file, and no published SAM 2 repository. Set it to demo, "
        "to a directory or file that exists, to facebook, or to an id such as "
        "facebook/sam2.1-hiera-large."
    )


def _on_hub(version: str, release: str) -> Sam2Checkpoint:
    repository = f"facebook/sam{release}-hiera-{_PUBLISHED[version][2]}"
    return Sam2Checkpoint(
        repository,
        _config_of(version, release),
        repository=repository,
        filename=_file_of(version, release),
    )


def _in_directory(directory: Path, name: str) -> dict[str, Sam2Checkpoint]:
    own = directory / _CUSTOM_CONFIG
    if own.is_file() and (directory / _CUSTOM_WEIGHTS).is_file():
        checkpoint = Sam2Checkpoint(name, own, file=directory / _CUSTOM_WEIGHTS)
        return dict.fromkeys(SAM2_VERSIONS, checkpoint)
    found = {}
    for version in SAM2_VERSIONS:
        for release in reversed(_RELEASES):
            file = directory / _file_of(version, release)
            if file.is_file():
                found[version] = Sam2Checkpoint(file.name, _config_of(version, release), file=file)
    return found


@contextmanager
def _explained(setting: str, name: str) -> Iterator[None]:
    """Turn whatever loading raises into one error that names the setting and the remedy."""
    try:
        yield
    except ModelUnavailableError:
        raise
    except Exception as error:  # what a corrupt file raises is anybody's guess
        raise ModelUnavailableError(f"{setting}: {name} {_explanation(error)}") from error


def _explanation(error: BaseException) -> str:
    """What went wrong and what to do; `transformers` wraps the hub's errors into others."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            "is gated. Accept its licence on its Hugging Face page, then run `hf auth login` or "
            "set HF_TOKEN."
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return "does not exist on Hugging Face, or is private. Check the id, or set HF_TOKEN."
    if isinstance(error, HfHubHTTPError | OSError):
        return (
            f"could not be read ({_short(error)}). If it is a directory, check that its files are "
            "complete; if it is a Hugging Face id, check the network or download it first and "
            "name the directory."
        )
    return f"is corrupt or of another model ({_short(error)}). Download it again."


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def load_sam2(checkpoint: Sam2Checkpoint, compute: Compute) -> SAM2Base:
    """Load a SAM 2 model.

    Args:
        checkpoint: from `find_sam2`.
        compute: where to put it.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelUnavailableError: missing, corrupt or gated weights.
    """
    with _explained("INFERENCE_SAM2_WEIGHTS", checkpoint.name):
        file = checkpoint.file
        if file is None:
            file = Path(hf_hub_download(str(checkpoint.repository), checkpoint.filename))
        config = OmegaConf.load(checkpoint.config)
        for option, value in _INFERENCE_OPTIONS.items():
            OmegaConf.update(
                config, f"model.sam_mask_decoder_extra_args.{option}", value, force_add=True
            )
        OmegaConf.resolve(config)
        model: SAM2Base = hydra.utils.instantiate(config.model, _recursive_=True)
        state = torch.load(file, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"], strict=True)
    return model.to(compute.device).eval().requires_grad_(False)


def sam3_source(weights: str) -> tuple[str, str]:
    """Resolve the setting `sam3_weights` without loading anything.

    Args:
        weights: `demo`, a directory, or a Hugging Face id.

    Returns:
        (what `from_pretrained` takes, name for people).

    Raises:
        ModelUnavailableError: a path that does not exist, or a directory without a model.
    """
    setting = f"INFERENCE_SAM3_WEIGHTS={weights}"
    path = WEIGHTS / "sam3" if weights == "demo" else Path(weights).expanduser()
    if weights and path.is_dir():
        # Without its words, a tokenizer is made that knows none, and nobody complains.
        words = "vocab.json" if (path / "vocab.json").is_file() else "tokenizer.json"
        for needed in ("config.json", "tokenizer_config.json", words):
            if not (path / needed).is_file():
                raise ModelUnavailableError(
                    f"{setting}: {needed} is missing. The directory must hold what "
                    "`hf download facebook/sam3` or `save_pretrained` writes."
                )
        if _model_type(path / "config.json") not in _SAM3_TYPES:
            raise ModelUnavailableError(
                f"{setting}: by its config.json, this is no SAM 3. The directory must hold what "
                "`hf download facebook/sam3` or `save_pretrained` writes."
            )
        return str(path), "demo" if weights == "demo" else path.name
    if weights.count("/") == 1 and not weights.startswith((".", "/", "~")):
        return weights, weights
    raise ModelUnavailableError(
        f"{setting}: no such directory. Set it to demo, to a directory that exists, or to a "
        "Hugging Face id such as facebook/sam3."
    )


def _model_type(config: Path) -> object:
    try:
        content = json.loads(config.read_text("utf-8"))
    except ValueError:
        return None
    return content.get("model_type") if isinstance(content, dict) else None


def load_sam3(source: str, name: str, compute: Compute) -> tuple[Sam3Model, Sam3Processor]:
    """Load a SAM 3 model and its processor, also from the published `sam3_video` layout.

    Args:
        source: directory or Hugging Face id.
        name: of the weights, for people.
        compute: where to put it.

    Returns:
        The model in evaluation mode, and the processor.

    Raises:
        ModelUnavailableError: missing, corrupt or gated weights.
    """
    model: Any
    with _explained("INFERENCE_SAM3_WEIGHTS", name):
        loaded: Any = Sam3Model.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
        model, report = loaded
        lacking = sorted(report["missing_keys"]) + [str(k) for k in report["mismatched_keys"]]
        if lacking:
            raise ModelUnavailableError(
                f"INFERENCE_SAM3_WEIGHTS: {name} lacks {len(lacking)} of the model's tensors "
                f"(the first is {lacking[0]}). Download it again, or check that it is a SAM 3."
            )
        processor = Sam3Processor.from_pretrained(source)
    return model.to(compute.device).eval().requires_grad_(False), processor
