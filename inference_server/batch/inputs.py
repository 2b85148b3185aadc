"""Inputs: which files a command line means, what each is called, and reading one."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from inference_server.segmentation.types import StoredImage
from inference_server.settings import MiB

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
"""What a folder's images end in; a file that is named itself may be called anything."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image's file.

    Attributes:
        path: absolute.
        name: of its outputs, without what is added to tell them from the image; a path below the
            folder that was named, or else the file's own name.
    """

    path: Path
    name: str

    @property
    def shown(self) -> str:
        """The name as JSON and terminals can hold it, whatever bytes are in it."""
        return shown(self.name)


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be done, and why.

    Attributes:
        what: a file, a folder or a pattern, as people know it.
        reason: one or two sentences.
    """

    what: str
    reason: str


@dataclass(slots=True)
class Inputs:
    """What the arguments mean.

    Attributes:
        sources: the images, each once, in the order of the arguments; a folder's by name.
        failures: arguments and folders that cannot be read.
    """

    sources: list[Source] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class InputError(Exception):
    """An image's file cannot be read; the message is the reason."""


def shown(text: str) -> str:
    """A path with a mark in place of each byte that is no text."""
    return os.fsencode(text).decode("utf-8", "replace")


def collect(
    arguments: Sequence[str],
    *,
    recursive: bool = False,
    without: Collection[Path] = frozenset(),
    outputs: Path | None = None,
) -> Inputs:
    """Find the images that arguments name.

    In a folder these are the files that end in one of `SUFFIXES`. Hidden files and folders in it
    are left out, and links to folders are not followed.

    Args:
        arguments: files, folders, and patterns such as `photos/*.jpg` (`**` is any depth).
        recursive: with the folders' folders.
        without: absolute paths that are none of the inputs, such as earlier outputs.
        outputs: a folder that holds none of the inputs, unless it is named itself.

    Returns:
        The images; their names may be alike.
    """
    inputs = Inputs()
    seen: set[Path] = set(without)

    def add(path: Path, name: str) -> None:
        if path not in seen:
            seen.add(path)
            inputs.sources.append(Source(path, name))

    def fail(error: OSError) -> None:
        inputs.failures.append(Failure(shown(str(error.filename)), error.strerror or str(error)))

    def add_folder(folder: Path) -> None:
        for here, folders, files in os.walk(folder, onerror=fail):
            folders[:] = sorted(
                each
                for each in folders
                if recursive and not each.startswith(".") and Path(here, each) != outputs
            )
            for file in sorted(files):
                if not file.startswith(".") and PurePath(file).suffix.lower() in SUFFIXES:
                    path = Path(here, file)
                    add(path, str(path.relative_to(folder)))

    for argument in arguments:
        path = Path(os.path.abspath(argument))  # links are kept: their names are the user's
        found = [path]
        if not os.path.lexists(path) and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            found = [Path(os.path.abspath(each)) for each in matches]
            if not found:
                inputs.failures.append(Failure(shown(argument), "No file matches this pattern."))
        for each in found:
            if each.is_dir():
                if found == [path] or recursive:
                    add_folder(each)
            else:
                add(each, each.name)
    return inputs


def named_apart(sources: Sequence[Source], taken: dict[Path, str]) -> list[Source]:
    """The same images, no two of them of the same name.

    The first one keeps its name. Others are called by as much of their path as tells them apart,
    and if all of it does not, are numbered. Names that differ in case alone are the same to some
    file systems.

    Args:
        sources: the images.
        taken: names that some images have from before, and keep.

    Returns:
        The images in their order.
    """
    used = {name.casefold() for name in taken.values()}
    named = []
    for source in sources:
        name = taken.get(source.path)
        if name is None:
            name = _unused(source, used)
            used.add(name.casefold())
        named.append(Source(source.path, name))
    return named


def _unused(source: Source, used: Collection[str]) -> str:
    parts = source.path.parts[1:]  # without the root
    first = len(PurePath(source.name).parts)
    for count in range(first, len(parts) + 1):
        name = str(PurePath(*parts[-count:]))
        if name.casefold() not in used:
            return name
    number = 2
    while f"{source.name}-{number}".casefold() in used:
        number += 1
    return f"{source.name}-{number}"


def stamp(source: Source) -> tuple[int, int]:
    """(bytes, time of the last change in ns) of a file, which tell whether it may have changed.

    Raises:
        InputError: it is not there, or is no file.
    """
    try:
        found = source.path.stat()
    except OSError as error:
        raise _unreadable(error) from None
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for a writer
        raise InputError("It is no regular file.")
    return found.st_size, found.st_mtime_ns


def read(source: Source, max_mb: int) -> StoredImage:
    """An image's file, with its digest; for worker threads.

    Args:
        source: the image.
        max_mb: most MiB of it.

    Raises:
        InputError: it cannot be read, or is too large.
    """
    stamp(source)
    try:
        with source.path.open("rb") as file:
            data = file.read(max_mb * MiB + 1)
    except OSError as error:
        raise _unreadable(error) from None
    if len(data) > max_mb * MiB:
        raise InputError(f"It is larger than {max_mb} MiB. Raise INFERENCE_MAX_UPLOAD_MB.")
    return StoredImage.of(data)


def _unreadable(error: OSError) -> InputError:
    return InputError(f"It cannot be read: {error.strerror or error}.")
