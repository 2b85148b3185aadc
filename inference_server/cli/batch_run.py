"""Runs the plan of `segment`: shows the progress, and reports the outcome."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from inference_server.batch.plan import Plan, Request
    from inference_server.segmentation.local import LocalSegmentationService

_SOME_FAILED, _INTERRUPTED = 1, 130  # 2 is click's exit status for usage errors


def run_plan(
    plan: Plan,
    request: Request,
    segmenter: LocalSegmentationService,
    workers: int,
    quiet: bool,
    where: str,
) -> int:
    """Process the remaining images of a run and report the outcome.

    Args:
        plan: the run.
        request: its options.
        segmenter: the segmentation service.
        workers: maximum number of images in progress.
        quiet: report failures only.
        where: name of the output in the report; empty for its path.

    Returns:
        The exit status.
    """
    from inference_server.batch.runner import ABORTS, reason_of

    say = _silent if quiet else _say
    summary, total = plan.summary, len(plan.sources)
    before = summary.images
    if before:
        say(f"Resuming: {before} of {total} images are already done.")
    if plan.left:
        say(f"Using {', '.join(request.models)} on {segmenter.models.compute.device}.")
        demo = [label.split("/")[0] for label in request.models if label.endswith("/demo")]
        if demo:
            options = " and ".join(f"--{family}-weights" for family in demo)
            say(f"Demo weights recognise generated shapes only; set {options} for real images.")
    try:
        asyncio.run(_work(plan, segmenter, workers, quiet))
        if summary.images:
            plan.batch.finish(plan.sources, request.models)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say(
            f"Interrupted: {summary.images} of {total} images are done. Run the same command to "
            "resume."
        )
        return _INTERRUPTED
    except ABORTS as error:
        _say(
            f"Stopped: {reason_of(error)}\n{summary.images} of {total} images are done. Run the "
            "same command to resume."
        )
        return _SOME_FAILED
    output = plan.batch.output
    target = where or output.document or output.only or output.folder
    say(
        f"{summary.images} image{'s' * (summary.images != 1)}, {summary.objects} "
        f"object{'s' * (summary.objects != 1)}: {target}"
    )
    if not summary.failures:
        return 0
    _say(f"{len(summary.failures)} failed; run the same command to retry them:")
    for failure in summary.failures:
        _say(f"  {failure.what}: {failure.reason}")
    return _SOME_FAILED


async def _work(plan: Plan, segmenter: LocalSegmentationService, workers: int, quiet: bool) -> None:
    from inference_server.cli.progress import Bar

    if not plan.left:
        return
    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await plan.batch.search.load(segmenter.models)
    with Bar("images", len(plan.sources), done=plan.summary.images, quiet=quiet) as bar:
        await plan.batch.run(
            segmenter,
            plan.left,
            plan.summary,
            workers=workers,
            done=lambda failure: bar.advance(failed=failure is not None),
            watch=bar.part,
        )


def _say(text: str) -> None:
    click.echo(text, err=True)


def _silent(text: str) -> None:
    del text
