"""`inference-server segment`: segment files without a server."""

from __future__ import annotations

import math
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from inference_server.cli.batch_run import run_plan
from inference_server.cli.console import to_stdout
from inference_server.cli.options import model_options, settings_of, size_option
from inference_server.cli.prompt_options import (
    ClassBox,
    ClassWords,
    checked_text,
    concepts_of,
    prompt_options,
)
from inference_server.cli.tile_options import check_tiles, tile_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference_server.batch.rasters import Tiles
    from inference_server.batch.search import Concept
    from inference_server.settings import Settings

# NumPy, OpenCV and PyTorch take seconds to import, so only a run imports them, not --help.

_FORMATS = ("coco", "polygon", "rle", "geojson", "png", "geotiff", "yolo")
_POLYGONS = ("polygon", "geojson", "yolo")
_STDOUT = "-"

_EPILOG = """
\b
Examples:
  inference-server segment photo.jpg --text "red circle" --text star -o out/ --overlay
  inference-server segment photos/ --recursive --text person -o people.json
  inference-server segment photo.jpg --box 20,30,200,180 --point 110,90 --point 40,40,0 -o out.json --format rle
  inference-server segment 'tiles/**/*.tif' --text building --format geojson -o out/
  inference-server segment ortho.tif --text building --format geojson --geojson-crs 4326 -o buildings.geojson
  inference-server segment photos/ --automatic --points-per-side 16 --format png -o out/
  inference-server segment photos/ --label "car=car,van" --label "person=person" --simplify 1.5 --format yolo -o dataset/
  inference-server segment photos/ --example "bolt=20,30,60,80" --example "bolt=90,30,120,80,0" -o photos.json --merge

\b
Exit status: 0 all images are done; 1 some images failed; 2 invalid command;
130 interrupted (run the same command again to resume).
"""  # noqa: E501


def _files(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    for each in value:
        if each == "-":
            raise click.UsageError(
                "Images are not read from standard input. Write the image to a file and name it; "
                "a file of this name is ./-."
            )
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", each):
            raise click.UsageError(
                f"{each} is a URL; this command reads files only. Download it first, such as with "
                "curl -O, or send the URL to a server."
            )
    return value


def _score(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (0 <= value <= 1):
        raise click.BadParameter(f"{value:g} is not between 0 and 1.")
    return value


def _number(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if math.isnan(value):  # which no range excludes
        raise click.BadParameter("nan is not a number of pixels. Use 0 or more.")
    return value


@click.command(epilog=_EPILOG)
@click.argument("images", nargs=-1, required=True, callback=_files, metavar="IMAGE|FOLDER|GLOB...")
@prompt_options
@click.option(
    "-o",
    "--output",
    required=True,
    help="A folder (out/), a file (out.json) for one image or in COCO format, or - for standard "
    "output in place of the file.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="coco",
    show_default=True,
    help="coco: one file for all images. The others write files per image: polygon and rle, the "
    "server's JSON; geojson, in the CRS of the image; png and geotiff, an image of object ids and "
    "JSON that describes them; yolo, segmentation labels, with the classes in data.yaml.",
)
@click.option(
    "--coco-segmentation",
    "segmentation",
    type=click.Choice(["rle", "polygon"]),
    default="rle",
    show_default=True,
    help="Masks in COCO format. RLE is exact; polygons have no holes.",
)
@click.option(
    "--simplify",
    "epsilon",
    type=click.FloatRange(0, 1e9),
    callback=_number,
    default=0.0,
    metavar="PIXELS",
    help="Simplify polygons: how far they may be from the outline, in pixels. Parts and holes "
    "stay. Default: every vertex is kept.",
)
@click.option(
    "--merge",
    is_flag=True,
    help="Add the classes of this command to the COCO document that earlier ones wrote.",
)
@click.option("--overlay", is_flag=True, help="Also write each image with its masks drawn on it.")
@click.option("--recursive", is_flag=True, help="Include the subfolders of a folder.")
@click.option(
    "--threshold",
    type=float,
    callback=_score,
    help="Minimum score. Default: 0.5 for --text, --label and --example, 0.8 for --automatic, none "
    "for boxes and points.",
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
    callback=checked_text,
    show_default=True,
    help="Class of the objects of examples, boxes, points and --automatic that have none.",
)
@tile_options
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
    labels: tuple[ClassWords, ...],
    examples: tuple[ClassBox, ...],
    boxes: tuple[ClassBox, ...],
    points: tuple[tuple[float, float, int], ...],
    automatic: bool,
    output: str,
    form: str,
    segmentation: str,
    epsilon: float,
    merge: bool,
    overlay: bool,
    recursive: bool,
    threshold: float | None,
    nms: float | None,
    points_per_side: int,
    category: str,
    tiles: Tiles,
    tile_size: int | None,
    tile_overlap: int | None,
    bands: tuple[int, ...] | None,
    geojson_crs: str | None,
    size: str | None,
    workers: int | None,
    force: bool,
    quiet: bool,
    **options: str | None,
) -> None:
    """Segment images without a server.

    The same command resumes an interrupted run, a large GeoTIFF at the window where it stopped. A
    bad image does not stop the others and is listed at the end. In a folder, files with the suffix
    of an image format are segmented.
    """
    if not (texts or labels or examples or boxes or points or automatic):
        raise click.UsageError(
            "No prompt. Use --text, --label, --example, --box, --point or --automatic."
        )
    if epsilon and form not in _POLYGONS and (form, segmentation) != ("coco", "polygon"):
        raise click.UsageError(
            "--simplify needs polygons. Use --coco-segmentation polygon, or --format polygon, "
            "geojson or yolo."
        )
    if merge and form != "coco":
        raise click.UsageError("--merge adds to a COCO document. Leave --format at coco.")
    if output == _STDOUT and (form in ("png", "geotiff", "yolo") or overlay or merge):
        what = "--overlay" if overlay else "--merge" if merge else f"--format {form}"
        raise click.UsageError(f"{what} cannot be written to standard output. Use -o out/.")
    if output == _STDOUT and sys.stdout is None:  # as Python does if its file is closed
        raise click.ClickException("Standard output is closed. Open it, or use -o out.json.")
    if geojson_crs is not None and form != "geojson":
        raise click.UsageError("--geojson-crs needs --format geojson.")
    settings = settings_of(**options)
    check_tiles(settings, tile_size, tile_overlap)
    concepts = concepts_of(texts, labels, examples, category)
    _check_bounds(settings, concepts, boxes, points)
    from inference_server.batch.journal import JournalError
    from inference_server.batch.outputs import OutputError
    from inference_server.batch.plan import NothingToDoError, Request, open_plan
    from inference_server.batch.rasters import RasterOptions
    from inference_server.batch.search import Search
    from inference_server.errors import ModelUnavailableError
    from inference_server.segmentation.local import LocalSegmentationService
    from inference_server.segmentation.types import TilingOptions

    search = Search(
        concepts,
        tuple(box.corners for box in boxes),
        points,
        automatic,
        threshold,
        nms,
        size,
        points_per_side,
        category,
        tuple(box.category or category for box in boxes),
    )
    if search.unused_points:
        raise click.UsageError(
            "A negative --point (x,y,0) is outside every --box, and there is no positive --point "
            "that it could refine. Add one, or move it into a box."
        )
    workers = workers or 0
    with ExitStack() as stack:
        where = "standard output" if output == _STDOUT else ""
        if output == _STDOUT:
            name = "out.geojson" if form == "geojson" else "out.json"
            output = str(Path(stack.enter_context(TemporaryDirectory())) / name)
            stack.callback(to_stdout, Path(output))
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
                epsilon,
                merge,
                RasterOptions(tiles, TilingOptions(tile_size, tile_overlap), bands, geojson_crs),
                settings,
            )
            plan = stack.enter_context(open_plan(request))
        except (JournalError, NothingToDoError, OutputError) as error:
            told = str(error).replace(output, _STDOUT) if where else str(error)
            raise click.UsageError(told) from None
        except ModelUnavailableError as error:
            raise click.ClickException(error.message) from None
        workers = workers or 2 * segmenter.models.effort.encode_batch + 2
        status = run_plan(plan, request, segmenter, workers, quiet, where)
    raise SystemExit(status)


def _check_bounds(
    settings: Settings,
    concepts: Sequence[Concept],
    boxes: Sequence[object],
    points: Sequence[object],
) -> None:
    """Apply the server's limits of a request, which its models are designed for."""
    texts = [each.text for each in concepts if each.text is not None]
    for option, count, most, setting in (
        ("--text, --label and --example", len(concepts), settings.max_prompts, "MAX_PROMPTS"),
        (
            "--example of a class",
            max((len(each.boxes) for each in concepts), default=0),
            settings.max_boxes,
            "MAX_BOXES",
        ),
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
