"""Find SAM 1's weights: in the package, in a directory or file, or on Hugging Face.

Nothing is loaded here, and neither PyTorch nor a model's library is imported.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_server.demo import WEIGHTS
from inference_server.engines.weight_files import bytes_at, fingerprint, is_hub_id
from inference_server.errors import ModelUnavailableError

SAM1_VERSIONS: tuple[str, ...] = ("vit_b", "vit_l", "vit_h")
"""Names of the SAM 1 sizes in requests, smallest first."""

SAM1_FILES: dict[str, str] = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}
"""Names of the files that Meta publishes, by version."""

SAM1_REPOSITORIES: dict[str, str] = {
    "vit_b": "facebook/sam-vit-base",
    "vit_l": "facebook/sam-vit-large",
    "vit_h": "facebook/sam-vit-huge",
}
"""Repositories on Hugging Face, by version."""

_FILE = re.compile(r"sam_(vit_[blh])_.+\.pth")
"""Names of files in Meta's format, with the version."""

_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""Versions by the width of their image encoder."""


@dataclass(frozen=True)
class Sam1Checkpoint:
    """Weights of one SAM 1 model, not loaded yet.

    Attributes:
        name: Name of the weights for display; never a local path, which clients must not see.
        source: Directory in the layout of `transformers`, or Hugging Face id; empty for a file.
        file: Path of a file in Meta's format; None for a `source`.
        version: Size of the model in `file`; empty for a `source`, whose config.json has it.
    """

    name: str
    source: str = ""
    file: Path | None = None
    version: str = ""

    @property
    def nbytes(self) -> int:
        """Size of the local files of the weights in bytes; 0 if there are none."""
        return self.file.stat().st_size if self.file else bytes_at(Path(self.source))

    @property
    def fingerprint(self) -> str:
        """Digest of the weights: of the local files, or of the repository's id."""
        path = self.file or Path(self.source)
        return fingerprint(path) if path.exists() else self.source


def find_sam1(weights: str, source: str = "INFERENCE_SAM1_WEIGHTS") -> dict[str, Sam1Checkpoint]:
    """Resolve the setting `sam1_weights` without loading anything.

    Args:
        weights: `demo`, `none`, a directory, a file, `facebook`, or a Hugging Face id.
        source: Name of the setting, for error messages.

    Returns:
        Checkpoints by version, smallest first, without the versions that have no weights. A
        checkpoint of another size than the published ones, such as the demo, is used for every
        version.

    Raises:
        ModelUnavailableError: The setting names no existing weights.
    """
    setting = f"{source}={weights}"
    path = WEIGHTS / "sam1" if weights == "demo" else Path(weights).expanduser()
    if weights == "none":
        return {}
    if weights and path.is_dir():
        return _in_directory(path, "demo" if weights == "demo" else path.name, setting)
    if path.is_file():
        version = _version_of(path)
        if version is None:
            raise ModelUnavailableError(
                f"{setting}: the file name does not tell the model's size. Rename the file to its "
                f"published name, such as {SAM1_FILES['vit_h']}."
            )
        return {version: Sam1Checkpoint(path.name, file=path, version=version)}
    if weights == "facebook":
        return {
            version: Sam1Checkpoint(repository, repository)
            for version, repository in SAM1_REPOSITORIES.items()
        }
    if is_hub_id(weights):
        checkpoint = Sam1Checkpoint(weights, weights)
        for version, repository in SAM1_REPOSITORIES.items():
            if weights == repository:
                return {version: checkpoint}
        return dict.fromkeys(SAM1_VERSIONS, checkpoint)
    raise ModelUnavailableError(
        f"{setting}: no such directory or file. Set it to demo, to none, to an existing directory "
        "or file, to facebook, or to a Hugging Face id such as facebook/sam-vit-huge."
    )


def _in_directory(directory: Path, name: str, setting: str) -> dict[str, Sam1Checkpoint]:
    """Checkpoints in a directory: of `transformers` if it has a config.json, else Meta's files."""
    config = directory / "config.json"
    if config.is_file():
        checkpoint = Sam1Checkpoint(name, str(directory))
        version = _WIDTHS.get(_width(config, setting))
        return dict.fromkeys(SAM1_VERSIONS if version is None else [version], checkpoint)
    found: dict[str, Sam1Checkpoint] = {}
    for version in SAM1_VERSIONS:
        files = sorted(file for file in directory.iterdir() if _version_of(file) == version)
        published = directory / SAM1_FILES[version]
        if len(files) > 1 and published not in files:
            raise ModelUnavailableError(
                f"{setting}: {files[0].name} and {files[1].name} are both weights of {version}. "
                "Keep one of them in the directory, or set the file itself."
            )
        if files:
            file = published if published in files else files[0]
            found[version] = Sam1Checkpoint(file.name, file=file, version=version)
    if not found:
        raise ModelUnavailableError(
            f"{setting}: the directory contains no SAM 1 weights. Add at least one of "
            f"{', '.join(SAM1_FILES.values())}, or what `hf download facebook/sam-vit-huge` or "
            "`save_pretrained` writes."
        )
    return found


def _version_of(file: Path) -> str | None:
    """Version that the name of a file in Meta's format tells; None for other files."""
    match = _FILE.fullmatch(file.name)
    return match[1] if match and file.is_file() else None


def _width(config: Path, setting: str) -> int:
    """Width of the image encoder that a config.json describes."""
    content: Any = None
    try:
        content = json.loads(config.read_text("utf-8"))
        if content["model_type"] == "sam":
            # `save_pretrained` may omit defaults, and vit_b is the default.
            return int(content.get("vision_config", {}).get("hidden_size", 768))
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise ModelUnavailableError(
        f"{setting}: the config.json is not that of a SAM 1. The directory must contain what "
        "`hf download facebook/sam-vit-huge` or `save_pretrained` writes."
    )
