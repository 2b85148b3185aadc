"""Where weights come from: the package, a directory, a file, or a Hugging Face id.

Nothing is loaded here, and neither PyTorch nor a model's library is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from inference_server.demo import WEIGHTS
from inference_server.errors import ModelUnavailableError

SAM2_VERSIONS: tuple[str, ...] = ("hiera_tiny", "hiera_small", "hiera_b_plus", "hiera_large")
"""The sizes of SAM 2, by the names that requests use."""

_PUBLISHED = {
    "hiera_tiny": ("tiny", "t", "tiny"),
    "hiera_small": ("small", "s", "small"),
    "hiera_b_plus": ("base_plus", "b+", "base-plus"),
    "hiera_large": ("large", "l", "large"),
}
"""A size's name in published file names, configuration names and repository names."""

SAM2_IDS: dict[str, str] = {
    f"sam2-hiera-{repository}": version for version, (_, _, repository) in _PUBLISHED.items()
}
"""The sizes by the ids that samgeo's clients know: `sam2-hiera-base-plus` and so on."""

SAM3_ID = "facebook/sam3"
"""What samgeo's clients call SAM 3."""

SAM3_NAME = "sam3/sam3_final"
"""What Roboflow's clients call SAM 3."""

Wanted = tuple[Literal["sam2", "sam3"], str]
"""A model by its family and the name that Roboflow's clients use."""

_RELEASES = ("2.1", "2")
"""Newest first."""

_SAM3_TYPES = ("sam3", "sam3_video")
"""The layouts of a SAM 3 directory, by `model_type`."""

_CUSTOM_CONFIG, _CUSTOM_WEIGHTS = "config.yaml", "model.pt"


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


@cache
def _config_directory() -> Path:
    """The configurations inside of the package `sam2`, found without importing it."""
    package = find_spec("sam2")
    if package is None or not package.submodule_search_locations:
        raise ModelUnavailableError("The package sam2 is not installed. Run `make serve`.")
    return Path(package.submodule_search_locations[0]) / "configs"


def _config_of(version: str, release: str) -> Path:
    size = _PUBLISHED[version][1]
    return _config_directory() / f"sam{release}" / f"sam{release}_hiera_{size}.yaml"


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


def preloaded(
    preload: Sequence[str], sam2_weights: str, sam2: Mapping[str, Sam2Checkpoint]
) -> list[Wanted]:
    """Resolve the setting `preload` without loading anything.

    Args:
        preload: models as `version:model_id`; empty for SAM 3 and the largest SAM 2.
        sam2_weights: the setting, for messages.
        sam2: what it provides, from `find_sam2`.

    Returns:
        The models, each once, in the order of the setting.

    Raises:
        ModelUnavailableError: one of them is unknown, or has no weights here.
    """
    if not preload:
        return [("sam3", SAM3_NAME), ("sam2", largest(sam2))]
    known: dict[str, Wanted] = {
        **{f"sam2:{name}": ("sam2", version) for name, version in SAM2_IDS.items()},
        **{f"sam2:{version}": ("sam2", version) for version in SAM2_VERSIONS},
        **{f"sam3:{name}": ("sam3", SAM3_NAME) for name in (SAM3_ID, SAM3_NAME)},
    }
    ids = [f"sam2:{name}" for name, version in SAM2_IDS.items() if version in sam2]
    remedy = f"Preload any of {', '.join(ids)}, sam3:{SAM3_ID}"
    for part in preload:
        if part not in known:
            raise ModelUnavailableError(
                f"INFERENCE_PRELOAD={part}: no such model. {remedy}; separate several by commas."
            )
        family, version = known[part]
        if family == "sam2" and version not in sam2:
            raise ModelUnavailableError(
                f"INFERENCE_PRELOAD={part}: INFERENCE_SAM2_WEIGHTS={sam2_weights} has no weights "
                f"for it. {remedy}, or add {_file_of(version, '2.1')} to the directory."
            )
    return list(dict.fromkeys(known[part] for part in preload))


def largest(sam2: Mapping[str, Sam2Checkpoint]) -> str:
    """The largest SAM 2 version that there are weights for."""
    return next(version for version in reversed(SAM2_VERSIONS) if version in sam2)


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
