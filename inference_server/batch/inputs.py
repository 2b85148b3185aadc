"""Input files: finds them from arguments, gives them unique names and reads them."""

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
"""Suffixes of images in a folder. A file that is an argument itself may have any name."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image file.

    Attributes:
        path: absolute path.
        name: name of its outputs without their suffixes: the path relative to the folder argument,
            or the file name.
    """

    path: Path
    name: str

    @property
    def shown(self) -> str:
        """Return the name as valid Unicode, for JSON and terminals."""
        return shown(self.name)


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that failed, and why.

    Attributes:
        what: path of a file or folder, or a pattern.
        reason: one or two sentences for the user.
    """

    what: str
    reason: str


@dataclass(slots=True)
class Inputs:
    """The images that arguments select.

    Attributes:
        sources: the images without duplicates, in the order of the arguments; inside a folder by
            name.
        failures: arguments and folders that cannot be read.
    """

    sources: list[Source] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class InputError(Exception):
    """An image file cannot be read; the message is the reason."""


def shown(text: str) -> str:
    """Replace the undecodable bytes of a path by the replacement character.

    Args:
        text: the path, as `os.fsdecode` returns it.

    Returns:
        Valid Unicode.
    """
    return os.fsencode(text).decode("utf-8", "replace")


def collect(
    arguments: Sequence[str],
    *,
    recursive: bool = False,
    without: Collection[Path] = frozenset(),
    outputs: Path | None = None,
) -> Inputs:
    """Find the images that arguments select.

    In a folder these are the files with one of `SUFFIXES`. Hidden files and folders are skipped,
    and links to folders are not followed.

    Args:
        arguments: files, folders, and patterns such as `photos/*.jpg`; `**` matches any depth.
        recursive: include subfolders. Default: False.
        without: absolute paths to skip, such as outputs of earlier runs. Default: none.
        outputs: absolute path of the output folder, which is skipped as a subfolder but not as an
            argument. Default: none.

    Returns:
        The images; their names are not unique yet.
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
        path = Path(os.path.abspath(argument))  # not resolved: outputs are named like the links
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


def with_unique_names(sources: Sequence[Source], taken: dict[Path, str]) -> list[Source]:
    """Make the names of images unique.

    Of several images with a name, the first one keeps it. The others are named by as many folders
    of their paths as needed, or are numbered if their whole paths are not enough. Names that
    differ only in case are duplicates, as they are in some file systems.

    Args:
        sources: the images.
        taken: names from earlier runs, by absolute path; these images keep them.

    Returns:
        The images in the same order.
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
    """Return size and modification time of a file, to detect changes.

    Args:
        source: the image file.

    Returns:
        Size in bytes and modification time in ns.

    Raises:
        InputError: the file does not exist or is not a regular file.
    """
    try:
        found = source.path.stat()
    except OSError as error:
        raise unreadable(error) from None
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for a writer
        raise InputError("Not a regular file.")
    return found.st_size, found.st_mtime_ns


def read(source: Source, max_mb: int) -> StoredImage:
    """Read an image file and compute its digest. Runs in worker threads.

    Args:
        source: the image file.
        max_mb: maximum size in MiB.

    Returns:
        The content and its digest.

    Raises:
        InputError: the file is unreadable or too large.
    """
    stamp(source)
    try:
        with source.path.open("rb") as file:
            data = file.read(max_mb * MiB + 1)
    except OSError as error:
        raise unreadable(error) from None
    if len(data) > max_mb * MiB:
        raise InputError(
            f"The file is larger than {max_mb} MiB. Raise INFERENCE_MAX_UPLOAD_MB, or reduce the "
            "image."
        )
    return StoredImage.of(data)


def unreadable(error: OSError) -> InputError:
    """Return the error of a file that cannot be read.

    Args:
        error: the system's error.
    """
    return InputError(f"Cannot read the file: {error.strerror or error}.")
