"""Files of the administrator's directory, and nothing outside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference_server.errors import ImageError
from inference_server.images.raster_directory import open_in
from tests.open_files import open_below


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a directory beside a secret, with links to it."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.tif").write_bytes(b"secret")
    inside = tmp_path / "rasters"
    (inside / "2026" / "north").mkdir(parents=True)
    (inside / "a.tif").write_bytes(b"one")
    (inside / "2026" / "north" / "å b.tif").write_bytes(b"two")
    (inside / "link.tif").symlink_to(secret / "a.tif")
    (inside / "own.tif").symlink_to("a.tif")
    (inside / "linked").symlink_to(secret)
    os.mkfifo(inside / "pipe.tif")
    return inside


@pytest.mark.parametrize(
    ("name", "content"), [("a.tif", b"one"), ("2026/north/å b.tif", b"two")], ids=["file", "inner"]
)
def test_a_file_inside(folder: Path, name: str, content: bytes) -> None:
    link = folder.parent / "link to the directory"
    link.symlink_to(folder)
    for directory in (folder, link):
        with open_in(str(directory), name) as file:
            assert file.read() == content


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "../secret/a.tif", "2026/../../secret/a.tif", "./a.tif", "a.tif/"),
        *("2026//north/å b.tif", "a.tif\0", "a.tif\n", "a/" * 40 + "b", "a" * 2000, "\udcff"),
    ],
)
def test_names_that_are_not_paths_inside(folder: Path, name: str) -> None:
    with pytest.raises(ImageError, match="not a path inside"):
        open_in(str(folder), name)


def test_an_absolute_path_is_not_allowed(folder: Path) -> None:
    with pytest.raises(ImageError, match="not a path inside"):
        open_in(str(folder), str(folder / "a.tif"))


@pytest.mark.parametrize(
    "name",
    ["b.tif", "link.tif", "own.tif", "linked/a.tif", "2026", "2026/a.tif", "a.tif/b", "pipe.tif"],
)
def test_links_and_what_is_no_file(folder: Path, name: str) -> None:
    """Whether a link leads outside or not: the answer must not tell what there is."""
    with pytest.raises(ImageError) as caught:
        open_in(str(folder), name)
    assert f"no file {name!r} that it can read" in caught.value.message
    assert str(folder) not in caught.value.message
    assert not open_below(folder.parent)


def test_without_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="INFERENCE_RASTER_DIRECTORY"):
        open_in("", "a.tif")
    with pytest.raises(ImageError, match="no file"):
        open_in(str(tmp_path / "gone"), "a.tif")
