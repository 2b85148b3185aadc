"""Weights on the disk: the digest that tells them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_server.engines.catalog import Catalog
from inference_server.engines.weight_files import fingerprint
from inference_server.settings import Settings

SIZE = 300_000


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights."""
    file = tmp_path / "a" / "model.pt"
    file.parent.mkdir()
    file.write_bytes(bytes(range(250)) * (SIZE // 250))
    return file


def test_copies_are_equal(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / weights.name
    copy.write_bytes(weights.read_bytes())
    assert fingerprint(copy) == fingerprint(weights)


@pytest.mark.parametrize("position", [0, SIZE - 1])
def test_other_content_differs(weights: Path, position: int) -> None:
    before = fingerprint(weights)
    data = bytearray(weights.read_bytes())
    data[position] ^= 1
    weights.write_bytes(data)
    assert fingerprint(weights) != before
    weights.write_bytes(data[:-1])
    assert fingerprint(weights) != before


def test_a_directory_is_that_of_its_weights(tmp_path: Path) -> None:
    empty = fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert fingerprint(tmp_path) == empty == fingerprint(tmp_path / "nowhere")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert fingerprint(tmp_path) != empty


def test_every_checkpoint_has_one() -> None:
    catalog = Catalog(Settings(sam3_models={"a": "someone/weights"}))
    found = {key: catalog.checkpoint(key).fingerprint for key in catalog.keys}
    assert all(found.values())
    assert "someone/weights" in found.values()
    assert len({each for key, each in found.items() if key.family != "sam2"}) >= 3
