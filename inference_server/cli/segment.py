"""`inference-server segment`: segment files without a server."""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import click

from inference_server.cli.options import model_options, settings_of, size_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference_server.batch.plan import Plan, Request
    from inference_server.segmentation.local import LocalSegmentationService
    from inference_server.settings import Settings

# NumPy, OpenCV and PyTorch take seconds to import, so only a run imports them, not --help.

_FORMATS = ("coco", "polygon", "rle", "geojson", "png")
_SOME_FAILED, _INTERRUPTED = 1, 130  # 2 is click's exit status for usage errors

_EPILOG = """
\b
Examples:
  inference-server segment photo.jpg --text "red circle" --text star -o out/ --overlay
  inference-server segment photos/ --recursive --text person -o people.json
  inference-server segment photo.jpg --box 20,30,200,180 --point 110,90 --point 40,40,0 -o out.json --format rle
  inference-server segment 'tiles/**/*.tif' --text building --format geojson -o out/
  inference-server segment photos/ --automatic --points-per-side 16 --format png -o out/

\b
Exit status: 0 all images are done; 1 some images failed; 2 invalid command;
130 interrupted (run the same command again to resume).
"""  # noqa: E501


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas.

    Args:
        noun: name of the value in error messages, such as `box`.
        counts: accepted numbers of numbers.
        form: notation of the value in help and error messages, such as `x0,y0,x1,y1`.
    """

    def __init__(self, noun: str, counts: tuple[int, ...], form: str) -> None:
        self.name = form
        self._noun, self._counts = noun, counts

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        with suppress(ValueError):
            numbers = tuple(float(part) for part in str(value).split(","))
            if len(numbers) in self._counts and all(abs(each) <= 1e9 for each in numbers):
                return numbers
        self.fail(f"{value!r} is not a {self._noun}. Use {self.name} in pixels.", param, ctx)


def _boxes(
    context: click.Context, parameter: click.Parameter, value: tuple[tuple[float, ...], ...]
) -> tuple[tuple[float, ...], ...]:
    for x0, y0, x1, y1 in value:
        if x0 >= x1 or y0 >= y1:
            raise click.BadParameter(
                f"{x0:g},{y0:g},{x1:g},{y1:g} is an empty box. Use x0,y0,x1,y1: the top left "
                "corner, then the bottom right corner."
            )
    return value


def _points(
    context: click.Context, parameter: click.Parameter, value: tuple[tuple[float, ...], ...]
) -> tuple[tuple[float, float, int], ...]:
    points = []
    for x, y, *label in value:
        if label and label[0] not in (0, 1):
            raise click.BadParameter(
                f"{x:g},{y:g},{label[0]:g} has an invalid label. Use 1 on the object or 0 outside."
            )
        points.append((x, y, int(label[0]) if label else 1))
    return tuple(points)


def _score(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (0 <= value <= 1):
        raise click.BadParameter(f"{value:g} is not between 0 and 1.")
    return value


@click.command(epilog=_EPILOG)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE|FOLDER|GLOB...")
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="WORDS",
    help="Find all instances of a concept. Repeatable.",
)
@click.option(
    "--box",
    "boxes",
    multiple=True,
    type=_Numbers("box", (4,), "x0,y0,x1,y1"),
    callback=_boxes,
    help="Segment the object in a box. Repeatable.",
)
@click.option(
    "--point",
    "points",
    multiple=True,
    type=_Numbers("point", (2, 3), "x,y[,0|1]"),
    callback=_points,
    help="A point on the object (1, the default) or outside it (0). Points in a box refine its "
    "object; all others together select one object. Repeatable.",
)
@click.option("--automatic", is_flag=True, help="Segment everything in the image.")
@click.option(
    "-o",
    "--output",
    required=True,
    help="A folder (out/), or a file (out.json) for one image or in COCO format.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="coco",
    show_default=True,
    help="coco: one file for all images. The others write files per image: polygon and rle, the "
    "server's JSON; geojson, in the CRS of the image; png, an image of object ids and JSON that "
    "describes them.",
)
@click.option(
    "--coco-segmentation",
    "segmentation",
    type=click.Choice(["rle", "polygon"]),
    default="rle",
    show_default=True,
    help="Masks in COCO format. RLE is exact; polygons have no holes.",
)
@click.option("--overlay", is_flag=True, help="Also write each image with its masks drawn on it.")
@click.option("--recursive", is_flag=True, help="Include the subfolders of a folder.")
@click.option(
    "--threshold",
    type=float,
    callback=_score,
    help="Minimum score. Default: 0.5 for --text, 0.8 for --automatic, none for boxes and points.",
)
@click.option(
    "--nms",
    type=float,
    callback=_score,
    metavar="IOU",
    help="Of two objects whose IoU exceeds this, keep only the better one. Default: keep both.",
)
@click.option(
    "--points-per-side",
    type=click.IntRange(1, 128),
    default=32,
    show_default=True,
    help="Density of the click grid of --automatic; half as many take a quarter of the time.",
)
@click.option(
    "--category",
    default="object",
    show_default=True,
    help="Category of the objects of boxes, points and --automatic.",
)
@size_option
@model_options
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Maximum number of images in progress. Default: 4 on a CPU, 18 on a GPU.",
)
@click.option(
    "--force",
    "--restart",
    "force",
    is_flag=True,
    help="Start over, and overwrite existing files.",
)
@click.option("--quiet", is_flag=True, help="Report failures only.")
def segment(
    images: tuple[str, ...],
    texts: tuple[str, ...],
    boxes: tuple[tuple[float, float, float, float], ...],
    points: tuple[tuple[float, float, int], ...],
    automatic: bool,
    output: str,
    form: str,
    segmentation: str,
    overlay: bool,
    recursive: bool,
    threshold: float | None,
    nms: float | None,
    points_per_side: int,
    category: str,
    size: str | None,
    workers: int | None,
    force: bool,
    quiet: bool,
    **options: str | None,
) -> None:
    """Segment images without a server.

    The same command resumes an interrupted run. A bad image does not stop the others and is
    listed at the end. In a folder, files with the suffix of an image format are segmented.
    """
    if not (texts or boxes or points or automatic):
        raise click.UsageError("No prompt. Use --text, --box, --point or --automatic.")
    settings = settings_of(**options)
    _check_bounds(settings, texts, boxes, points)
    from inference_server.batch.journal import JournalError
    from inference_server.batch.outputs import OutputError
    from inference_server.batch.plan import NothingToDoError, Request, open_plan
    from inference_server.batch.search import Search
    from inference_server.errors import ModelUnavailableError
    from inference_server.segmentation.local import LocalSegmentationService

    search = Search(
        texts, boxes, points, automatic, threshold, nms, size, points_per_side, category
    )
    if search.unused_points:
        raise click.UsageError(
            "A negative --point (x,y,0) is outside every --box, and there is no positive --point "
            "that it could refine. Add one, or move it into a box."
        )
    workers = workers or 0
    with ExitStack() as stack:
        try:
            # Large enough that the requests of a run are never rejected with a full queue.
            queue = {"queue_size": max(settings.queue_size, 4 * workers, 128)}
            segmenter = LocalSegmentationService.for_files(settings.model_copy(update=queue))
            stack.callback(segmenter.close)
            request = Request(
                images,
                recursive,
                search,
                search.models(segmenter.models),
                output,
                form,
                segmentation,
                overlay,
                force,
                settings.max_upload_mb,
            )
            plan = stack.enter_context(open_plan(request))
        except (JournalError, NothingToDoError, OutputError) as error:
            raise click.UsageError(str(error)) from None
        except ModelUnavailableError as error:
            raise click.ClickException(error.message) from None
        workers = workers or 2 * segmenter.models.effort.encode_batch + 2
        status = _run(plan, request, segmenter, workers, quiet)
    raise SystemExit(status)


def _check_bounds(
    settings: Settings, texts: Sequence[str], boxes: Sequence[object], points: Sequence[object]
) -> None:
    """Apply the server's limits of a request, which its models are designed for."""
    for option, count, most, setting in (
        ("--text", len(texts), settings.max_prompts, "MAX_PROMPTS"),
        ("--box", len(boxes), settings.max_visual_prompts, "MAX_VISUAL_PROMPTS"),
        ("--point", len(points), settings.max_points, "MAX_POINTS"),
        (
            "characters in a --text",
            max(map(len, texts), default=0),
            settings.max_text_length,
            "MAX_TEXT_LENGTH",
        ),
    ):
        if count > most:
            raise click.UsageError(
                f"{count} {option} exceed the limit of {most}. Use fewer, or raise "
                f"INFERENCE_{setting}."
            )
    if not all(text.strip() for text in texts):
        raise click.UsageError("--text is empty. Name a concept.")


def _run(
    plan: Plan, request: Request, segmenter: LocalSegmentationService, workers: int, quiet: bool
) -> int:
    """Process the remaining images and report the outcome; return the exit status."""
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
        complete = not summary.failures
        plan.batch.finish(plan.sources, request.models, complete=complete)
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
    say(
        f"{summary.images} image{'s' * (summary.images != 1)}, {summary.objects} "
        f"object{'s' * (summary.objects != 1)}: {output.document or output.only or output.folder}"
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
        )


def _say(text: str) -> None:
    click.echo(text, err=True)


def _silent(text: str) -> None:
    del text
