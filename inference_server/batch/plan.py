"""Plans a run: validates the command, finds the images and opens the journal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from inference_server.batch.inputs import Inputs, Source, collect, shown, with_unique_names
from inference_server.batch.journal import DamagedJournalError, Journal, JournalError
from inference_server.batch.merge import categories_of, check_classes
from inference_server.batch.outputs import Output, OutputError
from inference_server.batch.rasters import RasterJob, RasterOptions
from inference_server.batch.runner import Batch, Summary
from inference_server.batch.search import Search
from inference_server.settings import Settings


class NothingToDoError(Exception):
    """The arguments select no image; the message says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """The options of a run.

    Attributes:
        arguments: files, folders and patterns.
        recursive: include subfolders.
        search: the prompts.
        models: labels of the models that process the prompts, such as `sam3/demo`.
        target: output folder or file, the value of `-o`.
        form: output format: `coco`, `polygon`, `rle`, `geojson`, `png`, `geotiff` or `yolo`.
        segmentation: masks in COCO format, `rle` or `polygon`.
        overlay: also write each image with its masks drawn on it.
        force: start over, and overwrite existing files.
        max_mb: maximum size of an image file in MiB.
        epsilon: maximum distance in pixels of a simplified polygon. Default: 0, not simplified.
        merge: add the classes of this run to the COCO document of earlier ones. Default: False.
        rasters: how rasters are read and written. Default: those that are too large to be encoded
            as a whole are segmented by windows.
        settings: limits of rasters and windows. Default: the defaults.
    """

    arguments: Sequence[str]
    recursive: bool
    search: Search
    models: Sequence[str]
    target: str
    form: str
    segmentation: str
    overlay: bool
    force: bool
    max_mb: int
    epsilon: float = 0.0
    merge: bool = False
    rasters: RasterOptions = field(default_factory=RasterOptions)
    settings: Settings = field(default_factory=Settings)

    def described(self) -> dict[str, Any]:
        """Return the options that affect the results, as JSON values by name."""
        described = {
            **self.search.described(),
            "--format": self.form,
            "--coco-segmentation": self.segmentation if self.form == "coco" else None,
            "--overlay": self.overlay,
            **({"--simplify": self.epsilon} if self.epsilon else {}),
            **self.rasters.described(),
            "models": list(self.models),
        }
        return dict(orjson.loads(orjson.dumps(described)))


@dataclass(frozen=True, slots=True)
class Plan:
    """A validated run.

    Attributes:
        batch: processes the images.
        sources: all images.
        left: images that are not finished.
        summary: counts of earlier runs, and the arguments that cannot be read.
    """

    batch: Batch
    sources: Sequence[Source]
    left: Sequence[Source]
    summary: Summary


@contextmanager
def open_plan(request: Request) -> Iterator[Plan]:
    """Plan a run, and hold its journal while the block runs.

    Args:
        request: the options of the run.

    Yields:
        The plan.

    Raises:
        NothingToDoError: the arguments select no image.
        OutputError: the output cannot be written or must not be overwritten.
        JournalError: the journal is damaged, or another process uses it.
    """
    output = Output.at(request.target, request.form, overlay=request.overlay)
    there = output.folder.exists()
    journal = _journal(output, request.force) if output.work.exists() else None
    try:
        inputs = _inputs(request, output, journal)
        journal = journal or _journal(output, request.force)
        sources = with_unique_names(inputs.sources, {} if request.force else journal.names())
        output.reject_equal_names(sources)
        merges = request.merge and not request.force and _begin_merge(request, output, journal)
        if merges:
            sources = with_unique_names(inputs.sources, {})
        elif not request.force:
            _reject_other_results(request, output, journal, sources)
        else:
            journal.clear()
            output.remove([output.base])
            _rasters(request, output).forget()
        journal.begin(request.described())
        journal.expect(sources)
        output.delete_unfinished()
    except OSError as error:
        _leave(journal, output, there)
        raise OutputError(f"Cannot write {output.work}: {error.strerror or error}.") from None
    except BaseException:
        _leave(journal, output, there)
        raise
    rasters = _rasters(request, output)
    try:
        batch = Batch(
            request.search,
            request.form,
            request.segmentation,
            request.overlay,
            output,
            journal,
            request.max_mb,
            rasters,
            request.epsilon,
        )
        summary = Summary(failures=inputs.failures)
        yield Plan(batch, sources, batch.remaining(sources, summary), summary)
    finally:
        if _has_results(journal, output) or rasters.has_windows:
            journal.close()
            output.leave_nothing_empty()
        else:
            journal.remove()
            _remove_if_empty(output, there)


def _rasters(request: Request, output: Output) -> RasterJob:
    identity = orjson.dumps(request.described()).decode()
    folder = output.work / "windows"
    return RasterJob(request.search, request.rasters, request.settings, identity, folder)


def _journal(output: Output, force: bool) -> Journal:
    try:
        return Journal(output.work)
    except DamagedJournalError:
        if not force:
            raise
        shutil.rmtree(output.work)
        return Journal(output.work)


def _inputs(request: Request, output: Output, journal: Journal | None) -> Inputs:
    """Find the images, excluding the outputs of earlier runs."""
    known = {} if journal is None else journal.names()
    ours = output.all_files(Source(path, name) for path, name in known.items())
    inputs = collect(
        request.arguments,
        recursive=request.recursive,
        without=frozenset(ours),
        outputs=None if output.is_file else output.folder,
    )
    if not inputs.sources:
        reasons = [f"{each.what}: {each.reason}" for each in inputs.failures]
        raise NothingToDoError(
            "\n".join(reasons)
            or f"No images in {', '.join(request.arguments)}."
            + ("" if request.recursive else " Use --recursive to include subfolders.")
        )
    if not any(source.path.exists() for source in inputs.sources):
        raise NothingToDoError(
            "\n".join(f"No such file: {shown(str(source.path))}." for source in inputs.sources)
        )
    output.reject_many(len(inputs.sources))
    return inputs


def _begin_merge(request: Request, output: Output, journal: Journal) -> bool:
    """Keep the document of earlier runs, and begin a run that adds its classes to it.

    Returns:
        False if there is nothing to merge with, or this run has begun to merge before.

    Raises:
        OutputError: the document has one of the classes, or its run is not finished.
    """
    document = output.document
    assert document is not None  # noqa: S101 - only COCO is merged
    before = journal.search
    if not document.exists() or (before == request.described() and _can_merge(output)):
        return False
    if before not in (None, request.described()) and set(journal.names()) - set(
        journal.names(done=True)
    ):
        raise OutputError(
            f"The run of {document} is not finished. Run its command again without --merge first, "
            "or use --force to start over."
        )
    check_classes(document, request.search.categories)
    output.prepare()
    output.keep_as_base()
    journal.clear()
    return True


def _can_merge(output: Output) -> bool:
    """Return whether the document that an earlier start of this run kept, if any, is valid.

    Earlier versions also kept documents that cannot be merged, which may be repaired by now.
    """
    try:
        if output.base.exists():
            categories_of(output.base)
    except OutputError:
        return False
    return True


def _reject_other_results(
    request: Request, output: Output, journal: Journal, sources: Sequence[Source]
) -> None:
    """Reject a run whose output contains results of another command or other files.

    Raises:
        OutputError: it does.
    """
    before, done = journal.search, journal.names(done=True)
    now = request.described()
    begun = bool(done) or _rasters(request, output).has_windows
    if before is not None and begun and before != now:
        raise OutputError(
            f"{request.target} has results of a different command: {_differences(before, now)}. "
            "Choose another -o, or use --force to start over."
        )
    mine = {source.path for source in sources}
    others = [path for path in done if path not in mine and path.exists()]
    if output.document is not None and request.form == "coco" and others:
        raise OutputError(
            f"{output.document} contains {len(others)} other images, such as {others[0]}. Add "
            "them to the command, choose another -o, or use --force to start over."
        )
    known = journal.names()
    strange = output.all_files(each for each in sources if each.path not in known)
    if before is not None and output.document is not None:
        strange.remove(output.document)
    output.reject_existing(strange)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "; ".join(
        f"{name} was {orjson.dumps(before.get(name)).decode()} and is now "
        f"{orjson.dumps(now.get(name)).decode()}"
        for name in names
    )


def _leave(journal: Journal | None, output: Output, there: bool) -> None:
    """Close the journal; delete a journal and output folder that this run created."""
    if journal is None:
        return
    if journal.search is not None:
        journal.close()
        return
    journal.remove()
    _remove_if_empty(output, there)


def _has_results(journal: Journal, output: Output) -> bool:
    """Return whether an image is finished, or was in an earlier run, or the journal is damaged."""
    try:
        return bool(journal.names(done=True)) or output.base.exists()
    except JournalError:
        return True


def _remove_if_empty(output: Output, there: bool) -> None:
    """Delete the output folder if this run created it and nothing is in it."""
    if not there:
        with suppress(OSError):  # a file is in it
            Path(output.folder).rmdir()
