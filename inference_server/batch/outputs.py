"""Output files: their names and folder, and atomic writes."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inference_server.batch.inputs import Source

DOCUMENT = "annotations.json"
"""File name of the COCO document in an output folder."""

CLASSES = "data.yaml"
"""File name of the classes in an output folder of YOLO labels."""

LABELS = "labels"
"""Folder of YOLO labels in an output folder."""

OVERLAY = ".overlay.jpg"

_SUFFIXES = {
    "polygon": (".json",),
    "rle": (".json",),
    "geojson": (".geojson",),
    "png": (".png", ".json"),
    "geotiff": (".ids.tif", ".json"),
    "yolo": (".txt",),
}
_DOCUMENTS = {"coco": DOCUMENT, "yolo": CLASSES}
_LABEL_SUFFIX = ".txt"
_WORK = ".segment"


class OutputError(Exception):
    """An output cannot be written or must not be overwritten; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Output:
    """Destination of a run: a folder or a single file.

    Attributes:
        folder: folder of all files that are written.
        document: file about all images: their results (COCO) or their classes (YOLO); None if
            there is none.
        only: file of the only image; None otherwise.
        suffixes: suffixes of an image's files, which are added to its name.
        work: folder of the journal and of incomplete files.
    """

    folder: Path
    document: Path | None
    only: Path | None
    suffixes: tuple[str, ...]
    work: Path

    @classmethod
    def at(cls, target: str, form: str, *, overlay: bool) -> Output:
        """Create the destination for a value of `-o`.

        The value is a folder if it ends in `/`, is an existing folder, or has no suffix.

        Args:
            target: value of `-o`.
            form: output format, as of `plan.Request`.
            overlay: whether overlays are written.

        Returns:
            The destination.

        Raises:
            OutputError: a single file cannot hold these results.
        """
        path = Path(os.path.abspath(target))
        ends = ".geojson" if form == "geojson" else ".json"
        if target.endswith("/") or path.is_dir() or not path.suffix:
            if path.exists() and not path.is_dir():
                raise OutputError(f"{target} is a file, not a folder. Choose another -o.")
            suffixes = (*_SUFFIXES.get(form, ()), *([OVERLAY] if overlay else []))
            document = path / _DOCUMENTS[form] if form in _DOCUMENTS else None
            return cls(path, document, None, suffixes, path / _WORK)
        advice = f"Use a folder: -o {target.removesuffix(path.suffix)}/"
        if form in ("png", "geotiff", "yolo") or path.suffix != ends:
            raise OutputError(
                f"--format {form} cannot be written to a {path.suffix} file. {advice}"
            )
        if overlay:
            raise OutputError(f"--overlay writes more files than {target}. {advice}")
        work = path.with_name(f".{path.name}{_WORK}")
        if form == "coco":
            return cls(path.parent, path, None, (), work)
        return cls(path.parent, None, path, (), work)

    @property
    def is_file(self) -> bool:
        """Whether the destination is a single file."""
        return self.work.name != _WORK

    def files(self, source: Source) -> list[Path]:
        """Return the files of an image."""
        if self.only is not None:
            return [self.only]
        return [self._file(source, suffix) for suffix in self.suffixes]

    def _file(self, source: Source, suffix: str) -> Path:
        """Return a file of an image; YOLO's have the image's name without its suffix."""
        if suffix == _LABEL_SUFFIX:
            return (self.folder / LABELS / source.name).with_suffix(suffix)
        return self.folder / f"{source.name}{suffix}"

    def reject_equal_names(self, sources: Iterable[Source]) -> None:
        """Reject images whose files would have the same name, as YOLO labels may.

        Args:
            sources: all images.

        Raises:
            OutputError: two images have a file in common.
        """
        seen: dict[Path, Source] = {}
        for source in sources:
            for path in self.files(source):
                other = seen.setdefault(path, source)
                if other is not source and self.only is None:
                    raise OutputError(
                        f"{other.path} and {source.path} would share {path}: YOLO labels have the "
                        "image's name without its suffix. Rename one of them."
                    )

    def all_files(self, sources: Iterable[Source]) -> list[Path]:
        """Return the files of all images, and the document."""
        whole = [] if self.document is None else [self.document]
        return [*whole, *itertools.chain.from_iterable(map(self.files, sources))]

    def reject_many(self, images: int) -> None:
        """Reject several images if the destination is a file for one.

        Args:
            images: number of images.

        Raises:
            OutputError: there is more than one image.
        """
        if self.only is not None and images > 1:
            raise OutputError(
                f"{self.only} holds the result of one image, but there are {images} images. Use a "
                "folder, such as -o out/, or --format coco."
            )

    def reject_existing(self, planned: Iterable[Path]) -> None:
        """Reject a run that would overwrite files from another source.

        Args:
            planned: files of this run that no earlier run wrote.

        Raises:
            OutputError: some of them exist.
        """
        there = [path for path in planned if os.path.lexists(path)]
        if there:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            exist = "exist" if more else "exists"
            raise OutputError(
                f"{there[0]}{more} already {exist} and no earlier run wrote it. Choose another -o, "
                "or use --force to overwrite."
            )

    def prepare(self) -> None:
        """Create the folder of incomplete files.

        Raises:
            OutputError: it is not writable.
        """
        try:
            self._unfinished.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self._unfinished, error) from None

    def delete_unfinished(self) -> None:
        """Delete the incomplete files of a killed run.

        Raises:
            OutputError: the folder of incomplete files is not writable.
        """
        shutil.rmtree(self._unfinished, ignore_errors=True)
        self.prepare()

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete files of this output, if they exist.

        Args:
            paths: the files.

        Raises:
            OutputError: a file cannot be deleted.
        """
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _unwritable(path, error) from None

    @property
    def base(self) -> Path:
        """The COCO document to which a run with `--merge` adds its classes."""
        return self.work / "base.json"

    def keep_as_base(self) -> None:
        """Copy the document, so that the run merges its results into it.

        Raises:
            OutputError: it cannot be copied.
        """
        assert self.document is not None  # noqa: S101 - only COCO is merged
        self.write(self.base, [self.document.read_bytes()])

    def leave_nothing_empty(self) -> None:
        """Delete the folder of incomplete files if it is empty."""
        with suppress(OSError):  # a file is in it
            self._unfinished.rmdir()

    def write(self, path: Path, content: Iterable[bytes] | Callable[[Path], None]) -> None:
        """Write a file of this output atomically.

        Args:
            path: one of `all_files`.
            content: pieces of the content, or a function that writes a file at a path.

        Raises:
            OutputError: the file cannot be written.
        """
        unfinished = self._unfinished / str(next(_NUMBERS))
        try:
            if callable(content):
                content(unfinished)
            with unfinished.open("ab") as file:
                if not callable(content):
                    file.writelines(content)
                file.flush()
                os.fsync(file.fileno())
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise _unwritable(path, error) from None

    @property
    def _unfinished(self) -> Path:
        return self.work / "unfinished"


_NUMBERS = itertools.count()


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"Cannot write {path}: {error.strerror or error}.")
