"""Weights as the settings name them: files, directories, and ids on Hugging Face."""

from __future__ import annotations

from pathlib import Path


def is_hub_id(weights: str) -> bool:
    """Whether a setting that is no existing path has the form of a Hugging Face id.

    Args:
        weights: The setting.
    """
    return weights.count("/") == 1 and not weights.startswith((".", "/", "~"))


def bytes_at(path: Path) -> int:
    """Size of weights on the disk in bytes; 0 if there are none.

    Args:
        path: A file, or a directory in the layout of `transformers`.
    """
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)
