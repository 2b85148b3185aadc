"""Input files: selection by arguments, unique names, reading."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference_server.batch.inputs import (
    InputError,
    Source,
    collect,
    read,
    stamp,
    with_unique_names,
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with files that have names of images, and others."""
    folder = tmp_path / "photos"
    for name in (
        "b.JPG",
        "a.jpg",
        "a.png",
        "notes.txt",
        ".hidden.jpg",
        "sub/c.tif",
        "sub/deep/d.webp",
        ".cache/e.jpg",
        "out/overlay.jpg",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def names(*arguments: object, **options: object) -> list[str]:
    inputs = collect([str(each) for each in arguments], **options)  # type: ignore[arg-type]
    assert not inputs.failures
    return [source.name for source in inputs.sources]


def test_a_folder_selects_its_images(photos: Path) -> None:
    assert names(photos) == ["a.jpg", "a.png", "b.JPG"]
    assert names(photos, recursive=True) == [
        "a.jpg",
        "a.png",
        "b.JPG",
        "out/overlay.jpg",
        "sub/c.tif",
        "sub/deep/d.webp",
    ]


def test_outputs_are_not_inputs(photos: Path) -> None:
    found = names(photos, recursive=True, outputs=photos / "out", without={photos / "a.png"})
    assert found == ["a.jpg", "b.JPG", "sub/c.tif", "sub/deep/d.webp"]
    assert names(photos / "out", outputs=photos / "out") == ["overlay.jpg"]  # an argument


def test_files_and_patterns(photos: Path) -> None:
    assert names(photos / "notes.txt") == ["notes.txt"]  # any name is accepted
    assert names(photos / "*.jpg", photos / "a.*") == ["a.jpg", "a.png"]  # no duplicates
    assert names(photos / "**" / "*.webp") == ["d.webp"]
    literal = photos / "[1].jpg"
    literal.touch()
    assert names(literal) == ["[1].jpg"]


def test_missing_files(photos: Path) -> None:
    inputs = collect([str(photos / "*.gif"), str(photos / "gone.jpg"), str(photos / "a.jpg")])
    (failure,) = inputs.failures
    assert failure.what.endswith("*.gif")
    assert failure.reason == "No file matches this pattern."
    gone, there = inputs.sources
    with pytest.raises(InputError, match="No such file"):
        stamp(gone)
    assert stamp(there)[0] == len("a.jpg")


def test_links_to_folders_are_not_followed(photos: Path) -> None:
    (photos / "sub" / "again").symlink_to(photos, target_is_directory=True)
    assert len(names(photos / "sub", recursive=True)) == 2


def test_duplicate_names_are_extended(tmp_path: Path) -> None:
    paths = ["/x/1/a.jpg", "/x/2/a.jpg", "/y/2/a.jpg", "/x/2/A.JPG", "/a.jpg"]
    sources = [Source(Path(path), Path(path).name) for path in paths]
    named = with_unique_names(sources, {})
    assert [each.path for each in named] == [each.path for each in sources]
    assert [each.name for each in named] == [
        "a.jpg",
        "2/a.jpg",
        "y/2/a.jpg",
        "x/2/A.JPG",
        "a.jpg-2",
    ]
    # Names from an earlier run are kept in any order of the images.
    again = with_unique_names(sources[::-1], {each.path: each.name for each in named})
    assert {each.path: each.name for each in again} == {each.path: each.name for each in named}


def test_names_are_relative_without_parents(photos: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(photos) + b"/\xff.jpg"))
    odd.touch()
    inputs = collect([f"{photos}/sub/../{odd.name}", f"{photos}/sub/.."])
    for source in with_unique_names(inputs.sources, {}):
        assert ".." not in Path(source.name).parts
        assert not Path(source.name).is_absolute()
    assert inputs.sources[0].shown == "\N{REPLACEMENT CHARACTER}.jpg"


def test_reading(photos: Path) -> None:
    image = read(Source(photos / "a.jpg", "a.jpg"), 1)
    assert image.data == b"a.jpg"
    large = photos / "large.jpg"
    large.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read(Source(large, ""), 1)
    pipe = photos / "pipe.jpg"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="Not a regular file"):
        read(Source(pipe, ""), 1)
    with pytest.raises(InputError, match="Not a regular file"):
        read(Source(photos, ""), 1)
    unreadable = photos / "unreadable.jpg"
    unreadable.symlink_to("/proc/self/mem")  # a regular file that even root cannot read at 0
    with pytest.raises(InputError, match="Cannot read the file: Input/output error"):
        read(Source(unreadable, ""), 1)
