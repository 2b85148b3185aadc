"""The plan: what a command line comes to, before anything is computed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from inference_server.batch.inputs import Inputs, Source, collect, named_apart, shown
from inference_server.batch.journal import DamagedJournalError, Journal
from inference_server.batch.outputs import Output, OutputError
from inference_server.batch.runner import Batch, Summary
from inference_server.batch.search import Search


class NothingToDoError(Exception):
    """The arguments name no image; the message says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command line.

    Attributes:
        arguments: files, folders and patterns.
        recursive: with the folders' folders.
        search: what to look for.
        models: labels of the models that look for it.
        target: where the results go.
        form: of the results, one of `outputs.FORMATS`.
        segmentation: of COCO: `rle` or `polygon`.
        overlay: draw the masks over each image.
        force: begin anew, and write over what is there.
        max_mb: most MiB of an image's file.
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

    def described(self) -> dict[str, Any]:
        """All that makes results others: options and their JSON values."""
        described = {
            **self.search.described(),
            "--format": self.form,
            "--coco-segmentation": self.segmentation if self.form == "coco" else None,
            "--overlay": self.overlay,
            "models": list(self.models),
        }
        return dict(orjson.loads(orjson.dumps(described)))


@dataclass(frozen=True, slots=True)
class Plan:
    """What there is to do.

    Attributes:
        batch: how.
        sources: all images.
        left: those that are not done yet.
        summary: of what was done before, with the arguments that cannot be read.
    """

    batch: Batch
    sources: Sequence[Source]
    left: Sequence[Source]
    summary: Summary


@contextmanager
def planned(request: Request) -> Iterator[Plan]:
    """Find out what there is to do; holds the journal as long as the block lasts.

    Raises:
        NothingToDoError: there is no image.
        OutputError: the results cannot go where they should.
        JournalError: the journal cannot be used.
    """
    output = Output.at(request.target, request.form, overlay=request.overlay)
    there = output.folder.exists()
    journal = _journal(output, request.force) if output.work.exists() else None
    try:
        inputs = _inputs(request, output, journal)
        journal = journal or _journal(output, request.force)
        sources = named_apart(inputs.sources, {} if request.force else journal.names())
        if not request.force:
            _refuse_another(request, output, journal, sources)
        else:
            journal.clear()
        journal.begin(request.described())
        journal.expect(sources)
        output.tidy()
    except OSError as error:
        _leave(journal, output, there)
        raise OutputError(f"{output.work} cannot be written: {error.strerror or error}.") from None
    except BaseException:
        _leave(journal, output, there)
        raise
    try:
        batch = Batch(
            request.search,
            request.form,
            request.segmentation,
            request.overlay,
            output,
            journal,
            request.max_mb,
        )
        summary = Summary(failures=inputs.failures)
        yield Plan(batch, sources, batch.remaining(sources, summary), summary)
    finally:
        journal.close()


def _journal(output: Output, force: bool) -> Journal:
    try:
        return Journal(output.work)
    except DamagedJournalError:
        if not force:
            raise
        shutil.rmtree(output.work)
        return Journal(output.work)


def _inputs(request: Request, output: Output, journal: Journal | None) -> Inputs:
    """The images, without what earlier runs made of them."""
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
            or f"There is no image in {', '.join(request.arguments)}."
            + ("" if request.recursive else " --recursive also looks into folders in folders.")
        )
    if not any(source.path.exists() for source in inputs.sources):
        raise NothingToDoError(
            "\n".join(f"There is no file {shown(str(source.path))}." for source in inputs.sources)
        )
    output.refuse_many(len(inputs.sources))
    return inputs


def _refuse_another(
    request: Request, output: Output, journal: Journal, sources: Sequence[Source]
) -> None:
    """Refuse to mix results with those of another command, or of nobody knows what.

    Raises:
        OutputError: they would be.
    """
    before, done = journal.search, journal.names(done=True)
    now = request.described()
    if before is not None and done and before != now:
        raise OutputError(
            f"{request.target} was begun by another command: {_differences(before, now)}. Choose "
            "another -o, or --force to begin anew."
        )
    mine = {source.path for source in sources}
    others = [path for path in done if path not in mine and path.exists()]
    if output.document is not None and others:
        raise OutputError(
            f"{output.document} holds {len(others)} other images, such as {others[0]}. Give them "
            "too, choose another -o, or --force to begin anew."
        )
    known = journal.names()
    strange = output.all_files(each for each in sources if each.path not in known)
    if before is not None and output.document is not None:
        strange.remove(output.document)
    output.refuse_strangers(strange)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "; ".join(
        f"{name} was {orjson.dumps(before.get(name)).decode()}, and is "
        f"{orjson.dumps(now.get(name)).decode()}"
        for name in names
    )


def _leave(journal: Journal | None, output: Output, there: bool) -> None:
    """Close the journal; of one that was never begun nothing stays."""
    if journal is None:
        return
    if journal.search is not None:
        journal.close()
        return
    journal.remove()
    if not there:
        with suppress(OSError):  # it holds something by now
            Path(output.folder).rmdir()
