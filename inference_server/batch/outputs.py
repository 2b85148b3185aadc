"""Outputs: where results go, what their files are called, and writing them whole or not at all."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from inference_server.batch.inputs import Source

FORMATS = ("coco", "polygon", "rle", "geojson", "png")

DOCUMENT = "annotations.json"
"""What the whole of a folder's images is called."""

OVERLAY = ".overlay.jpg"

_SUFFIXES = {
    "polygon": (".json",),
    "rle": (".json",),
    "geojson": (".geojson",),
    "png": (".png", ".json"),
}
_WORK = ".segment"


class OutputError(Exception):
    """Something cannot be written, or must not be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go: files in a folder, or one file.

    Attributes:
        folder: that holds everything that is written.
        document: the file that holds all images' results; None where each image has files.
        only: the file of the only image; None in a folder of its own.
        suffixes: added to an image's name for its files.
        work: folder of the journal, and of files that are not whole yet.
    """

    folder: Path
    document: Path | None
    only: Path | None
    suffixes: tuple[str, ...]
    work: Path

    @classmethod
    def at(cls, target: str, form: str, *, overlay: bool) -> Output:
        """What `-o` means.

        A path that ends in `/`, is a folder, or has no suffix is a folder.

        Args:
            target: the path.
            form: one of `FORMATS`.
            overlay: whether there are overlays.

        Raises:
            OutputError: a file cannot hold what is asked for.
        """
        path = Path(os.path.abspath(target))
        ends = ".geojson" if form == "geojson" else ".json"
        if target.endswith("/") or path.is_dir() or not path.suffix:
            if path.exists() and not path.is_dir():
                raise OutputError(f"{target} is a file: choose another -o.")
            suffixes = (*_SUFFIXES.get(form, ()), *([OVERLAY] if overlay else []))
            document = path / DOCUMENT if form == "coco" else None
            return cls(path, document, None, suffixes, path / _WORK)
        advice = f"Give a folder: -o {target.removesuffix(path.suffix)}/"
        if form == "png" or path.suffix != ends:
            raise OutputError(f"--format {form} does not go to a {path.suffix} file. {advice}")
        if overlay:
            raise OutputError(f"--overlay makes pictures besides. {advice}")
        work = path.with_name(f".{path.name}{_WORK}")
        if form == "coco":
            return cls(path.parent, path, None, (), work)
        return cls(path.parent, None, path, (), work)

    @property
    def is_file(self) -> bool:
        """Whether it is one file, which a journal beside it would only be in the way of."""
        return self.work.name != _WORK

    def files(self, source: Source) -> list[Path]:
        """The files of an image."""
        if self.only is not None:
            return [self.only]
        return [self.folder / f"{source.name}{suffix}" for suffix in self.suffixes]

    def all_files(self, sources: Iterable[Source]) -> list[Path]:
        """All files of images together."""
        whole = [] if self.document is None else [self.document]
        return [*whole, *itertools.chain.from_iterable(map(self.files, sources))]

    def refuse_many(self, images: int) -> None:
        """Refuse to put the results of several images into the file of one.

        Raises:
            OutputError: there are several.
        """
        if self.only is not None and images > 1:
            raise OutputError(
                f"{self.only} is a file for one image, and there are {images}. Give a folder, "
                "such as -o out/, or choose --format coco, which holds all of them."
            )

    def refuse_strangers(self, planned: Iterable[Path]) -> None:
        """Refuse to write over files of others.

        Args:
            planned: files that are not there yet, as far as we know.

        Raises:
            OutputError: some of them exist.
        """
        there = [path for path in planned if os.path.lexists(path)]
        if there:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            exist = "exist" if more else "exists"
            raise OutputError(
                f"{there[0]}{more} {exist} already, and no unfinished run made it. Choose another "
                "-o, or --force to write over it."
            )

    def tidy(self) -> None:
        """Remove what a killed run was writing."""
        try:
            shutil.rmtree(self._unfinished, ignore_errors=True)
            self._unfinished.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self._unfinished, error) from None

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove files of this output, which need not be there.

        Raises:
            OutputError: one cannot be removed.
        """
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _unwritable(path, error) from None

    def write(self, path: Path, content: Iterable[bytes]) -> None:
        """Write a file of this output; nobody ever sees half of it.

        Args:
            path: one of `all_files`.
            content: in pieces.

        Raises:
            OutputError: it cannot be written.
        """
        self_made = self._unfinished / str(next(_NUMBERS))
        try:
            with self_made.open("wb") as file:
                file.writelines(content)
                file.flush()
                os.fsync(file.fileno())
            path.parent.mkdir(parents=True, exist_ok=True)
            self_made.replace(path)
        except OSError as error:
            self_made.unlink(missing_ok=True)
            raise _unwritable(path, error) from None

    @property
    def _unfinished(self) -> Path:
        return self.work / "unfinished"


_NUMBERS = itertools.count()


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {error.strerror or error}.")
