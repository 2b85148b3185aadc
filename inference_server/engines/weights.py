"""Find weights: in the package, in a directory or file, or on Hugging Face.

Nothing is loaded here, and neither PyTorch nor a model's library is imported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from inference_server.demo import WEIGHTS
from inference_server.engines.weight_files import bytes_at, fingerprint, is_hub_id
from inference_server.errors import ModelUnavailableError

SAM2_VERSIONS: tuple[str, ...] = ("hiera_tiny", "hiera_small", "hiera_b_plus", "hiera_large")
"""Names of the SAM 2 sizes in requests, smallest first."""

_PUBLISHED = {
    "hiera_tiny": ("t", "tiny"),
    "hiera_small": ("s", "small"),
    "hiera_b_plus": ("b+", "base-plus"),
    "hiera_large": ("l", "large"),
}
"""By version: the size in configuration names and repository names."""

SAM2_IDS: dict[str, str] = {
    f"sam2-hiera-{repository}": version for version, (_, repository) in _PUBLISHED.items()
}
"""SAM 2 versions by the ids that samgeo's clients send, such as `sam2-hiera-base-plus`."""

SAM3_ID = "facebook/sam3"
"""Id of SAM 3 that samgeo's clients send."""

SAM3_NAME = "sam3/sam3_final"
"""Id of SAM 3 that Roboflow's clients send."""

_RELEASES = ("2.1", "2")
"""Releases of SAM 2, newest first."""

_PUBLISHED_SAM3 = "sam3_video"
"""`model_type` of the published layout, which contains the visual head."""

_SAM3_TYPES = ("sam3", _PUBLISHED_SAM3, "sam3_lite_text")
"""Values of `model_type` in the config.json of a supported SAM 3 directory."""

_CUSTOM_CONFIG, _CUSTOM_WEIGHTS = "config.yaml", "model.pt"
"""Files of a SAM 2 with a custom architecture."""


@dataclass(frozen=True)
class Sam2Checkpoint:
    """Weights of one SAM 2 model, not loaded yet.

    Attributes:
        name: Name of the weights for display; never a local path, which clients must not see.
        config: Path of the model's configuration, a YAML file with the key `model`.
        file: Path of the weights; None if they are on Hugging Face.
        repository: Hugging Face id; None if the weights are local.
        filename: Path of the weights in the repository; empty if they are local.
    """

    name: str
    config: Path
    file: Path | None = None
    repository: str | None = None
    filename: str = ""

    @property
    def nbytes(self) -> int:
        """Size of the local file of the weights in bytes; 0 if there is none."""
        return 0 if self.file is None else self.file.stat().st_size

    @property
    def fingerprint(self) -> str:
        """Digest of the weights: of the local file, or of the repository's id."""
        return self.repository or "" if self.file is None else fingerprint(self.file)


@dataclass(frozen=True)
class Sam3Checkpoint:
    """Weights of one SAM 3 model, not loaded yet.

    Attributes:
        name: Name of the weights for display; never a local path, which clients must not see.
        source: Directory or Hugging Face id, the argument of `from_pretrained`; or Meta's file.
        has_head: Whether they contain the visual head, which answers points and boxes.
    """

    name: str
    source: str
    has_head: bool = field(default=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Size of the local files of the weights in bytes; 0 if there are none."""
        return bytes_at(Path(self.source))

    @property
    def fingerprint(self) -> str:
        """Digest of the weights: of the local files, or of the repository's id."""
        path = Path(self.source)
        return fingerprint(path) if path.exists() else self.source


@cache
def _config_directory() -> Path:
    """Directory of the configurations in the package `sam2`, found without importing it."""
    package = find_spec("sam2")
    if package is None or not package.submodule_search_locations:
        raise ModelUnavailableError(
            "The package `sam2` is not installed. Run `make serve`, which installs it."
        )
    return Path(package.submodule_search_locations[0]) / "configs"


def _config_of(version: str, release: str) -> Path:
    size = _PUBLISHED[version][0]
    return _config_directory() / f"sam{release}" / f"sam{release}_hiera_{size}.yaml"


def published_file(version: str, release: str = "2.1") -> str:
    """The published file name of a SAM 2 size.

    Args:
        version: A size such as `hiera_tiny`.
        release: `2.1` (the default) or `2`.
    """
    return f"sam{release}_{version.replace('b_plus', 'base_plus')}.pt"


def find_sam2(weights: str, source: str = "INFERENCE_SAM2_WEIGHTS") -> dict[str, Sam2Checkpoint]:
    """Resolve the setting `sam2_weights` without loading anything.

    Args:
        weights: `demo`, `none`, a directory, a file, `facebook`, or a Hugging Face id.
        source: Name of the setting, for error messages.

    Returns:
        Checkpoints by version, without the versions that have no weights. A checkpoint with a
        custom configuration, such as the demo, is used for every version.

    Raises:
        ModelUnavailableError: The setting names no existing weights.
    """
    if weights == "none":
        return {}
    path = WEIGHTS / "sam2" if weights == "demo" else Path(weights).expanduser()
    setting = f"{source}={weights}"
    if weights and path.is_dir():
        found = _in_directory(path, "demo" if weights == "demo" else path.name)
        if not found:
            expected = ", ".join(published_file(version) for version in SAM2_VERSIONS)
            raise ModelUnavailableError(
                f"{setting}: the directory contains no SAM 2 weights. Add at least one of "
                f"{expected} (or the older sam2_hiera_*.pt), or {_CUSTOM_CONFIG} with "
                f"{_CUSTOM_WEIGHTS}."
            )
        return found
    if path.is_file():
        for version in SAM2_VERSIONS:
            for release in _RELEASES:
                if path.name == published_file(version, release):
                    config = _config_of(version, release)
                    return {version: Sam2Checkpoint(path.name, config, file=path)}
        raise ModelUnavailableError(
            f"{setting}: the file name does not tell the model's size. "
            f"Rename the file to its published name, such as {published_file('hiera_large')}."
        )
    if weights == "facebook":
        return {version: _on_hub(version, "2.1") for version in SAM2_VERSIONS}
    for version in SAM2_VERSIONS:
        for release in _RELEASES:
            checkpoint = _on_hub(version, release)
            if checkpoint.repository == weights:
                return {version: checkpoint}
    raise ModelUnavailableError(
        f"{setting}: no such directory or file, and not a published SAM 2 repository. Set it to "
        "demo, to an existing directory or file, to facebook, or to an id such as "
        "facebook/sam2.1-hiera-large."
    )


def _on_hub(version: str, release: str) -> Sam2Checkpoint:
    repository = f"facebook/sam{release}-hiera-{_PUBLISHED[version][1]}"
    return Sam2Checkpoint(
        repository,
        _config_of(version, release),
        repository=repository,
        filename=published_file(version, release),
    )


def _in_directory(directory: Path, name: str) -> dict[str, Sam2Checkpoint]:
    own = directory / _CUSTOM_CONFIG
    if own.is_file() and (directory / _CUSTOM_WEIGHTS).is_file():
        checkpoint = Sam2Checkpoint(name, own, file=directory / _CUSTOM_WEIGHTS)
        return dict.fromkeys(SAM2_VERSIONS, checkpoint)
    found = {}
    for version in SAM2_VERSIONS:
        for release in reversed(_RELEASES):
            file = directory / published_file(version, release)
            if file.is_file():
                found[version] = Sam2Checkpoint(file.name, _config_of(version, release), file=file)
    return found


def find_sam3(weights: str, source: str = "INFERENCE_SAM3_WEIGHTS") -> Sam3Checkpoint:
    """Resolve the setting `sam3_weights` without loading anything.

    Args:
        weights: `demo`, a directory, Meta's `sam3.pt`, or a Hugging Face id.
        source: Name of the setting, for error messages.

    Returns:
        The checkpoint.

    Raises:
        ModelUnavailableError: The directory does not exist or contains no SAM 3, or the file has no
            tokenizer beside it.
    """
    setting = f"{source}={weights}"
    path = WEIGHTS / "sam3" if weights == "demo" else Path(weights).expanduser()
    if weights and path.is_dir():
        # Checked, because without a vocabulary `transformers` silently creates an empty tokenizer.
        vocabulary = "vocab.json" if (path / "vocab.json").is_file() else "tokenizer.json"
        for required in ("config.json", "tokenizer_config.json", vocabulary):
            if not (path / required).is_file():
                raise ModelUnavailableError(
                    f"{setting}: {required} is missing. The directory must contain what "
                    "`hf download facebook/sam3` or `save_pretrained` writes."
                )
        kind = _model_type(path / "config.json")
        if kind not in _SAM3_TYPES:
            raise ModelUnavailableError(
                f"{setting}: the config.json is not that of a SAM 3. The directory must contain "
                "what `hf download facebook/sam3` or `save_pretrained` writes."
            )
        name = "demo" if weights == "demo" else path.name
        return Sam3Checkpoint(name, str(path), has_head=kind == _PUBLISHED_SAM3)
    if path.is_file():
        return _sam3_file(path, setting)
    if is_hub_id(weights):
        return Sam3Checkpoint(weights, weights, has_head=_has_head_on_hub(weights))
    raise ModelUnavailableError(
        f"{setting}: no such directory or file. Set it to demo, to an existing directory, to "
        "Meta's sam3.pt, or to a Hugging Face id such as facebook/sam3."
    )


def _sam3_file(file: Path, setting: str) -> Sam3Checkpoint:
    """The checkpoint in the file that Meta publishes, which contains no tokenizer."""
    if file.suffix != ".pt":
        raise ModelUnavailableError(
            f"{setting}: this is a file. Name the directory that contains it, as "
            "`hf download facebook/sam3` or `save_pretrained` writes it, or Meta's sam3.pt."
        )
    has_vocabulary = all((file.parent / name).is_file() for name in ("vocab.json", "merges.txt"))
    if not has_vocabulary and not (file.parent / "tokenizer.json").is_file():
        raise ModelUnavailableError(
            f"{setting}: the file contains no tokenizer, and there is none beside it. Put "
            "tokenizer.json of facebook/sam3 or of openai/clip-vit-base-patch32, which is the "
            "same, into its directory: `hf download openai/clip-vit-base-patch32 tokenizer.json "
            "--local-dir DIRECTORY`."
        )
    return Sam3Checkpoint(file.name, str(file), has_head=True)


def _has_head_on_hub(repository: str) -> bool:
    """Whether a repository on Hugging Face has the published layout; assumed unless it is cached.

    Found without the network, so that a server starts without it.
    """
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json")
    return not isinstance(config, str) or _model_type(Path(config)) == _PUBLISHED_SAM3


def _model_type(config: Path) -> object:
    """The value of `model_type` in a config.json; None if the file has none or is invalid."""
    try:
        content = json.loads(config.read_text("utf-8"))
    except ValueError:
        return None
    return content.get("model_type") if isinstance(content, dict) else None
