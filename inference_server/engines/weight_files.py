"""Weights as the settings name them: files, directories, and ids on Hugging Face."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SAMPLES = 64
_SAMPLE_BYTES = 4096


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


def fingerprint(path: Path) -> str:
    """Digest of weights on the disk: equal for copies, another one after training.

    Reading gigabytes takes seconds, so it covers the files' names and sizes and 64 evenly spaced
    samples of each. Training changes all weights.

    Args:
        path: A file, or a directory in the layout of `transformers`; anything else has the digest
            of no files.

    Returns:
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as data:
            for sample in range(_SAMPLES):
                data.seek(max(0, size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                digest.update(data.read(_SAMPLE_BYTES))
    return digest.hexdigest()
