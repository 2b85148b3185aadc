"""`inference-server bench`: measure this machine."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson

from inference_server import __version__
from inference_server.cli.options import model_options, settings_of, size_option

if TYPE_CHECKING:
    from rich.table import Table

    from inference_server.bench.figures import Bench, Figure

_BAR = 14
"""Width of the longest bar in characters."""

_EPILOG = """
\b
Examples:
  inference-server bench
  inference-server bench --sam2-weights facebook/sam2.1-hiera-tiny --only sam2 --plot bench.png
  inference-server bench --sam3-weights facebook/sam3 --only sam3
  inference-server bench --device cuda --json > bench.json
"""


def _size(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{2,5})x(\d{2,5})", value)
    if found is None or int(found[1]) * int(found[2]) > 50_000_000:
        raise click.BadParameter(
            f"{value!r} is not a valid size. Use WIDTHxHEIGHT, at most 50 megapixels."
        )
    return int(found[1]), int(found[2])


def _picture(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError(
            "--plot needs matplotlib: run pip install '.[plot]' in a checkout of the repository."
        )
    if value is not None and value.suffix not in (".pdf", ".png", ".svg"):
        raise click.BadParameter(f"{value} must end in .png, .svg or .pdf.")
    return value


@click.command(epilog=_EPILOG)
@model_options
@size_option
@click.option(
    "--only",
    type=click.Choice(["sam2", "sam3"]),
    help="Measure this model only. Default: the models that answer words, and points and boxes.",
)
@click.option(
    "--dtype",
    type=click.Choice(["each", "auto", "float32", "bfloat16"]),
    help="Precision to measure. Default: INFERENCE_DTYPE if it is set, else each that the device "
    "computes natively.",
)
@click.option(
    "--image",
    default="1920x1080",
    show_default=True,
    callback=_size,
    metavar="WIDTHxHEIGHT",
    help="Size of the generated image.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600),
    default=5.0,
    show_default=True,
    help="Duration of each workload; each one runs at least three times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_picture,
    help="Write a chart to this .png, .svg or .pdf file.",
)
def bench(
    size: str | None,
    only: str | None,
    dtype: str | None,
    image: tuple[int, int],
    seconds: float,
    as_json: bool,
    plot: Path | None,
    **options: str | None,
) -> None:
    """Measure latency and throughput of this machine with your weights.

    Measures encoding of an image; a click, boxes and a concept on an encoded image; and the
    throughput of clicks from concurrent clients, in float32 and in bfloat16, with the peak memory
    of each. HTTP and JSON are excluded. A SAM 3 with a visual head encodes once for words and
    clicks.
    """
    settings = settings_of(**options, dtype=None if dtype == "each" else dtype)
    from inference_server.bench.figures import Bench
    from inference_server.bench.machine import PeakMemory, arithmetics, machine
    from inference_server.engines.device import choose_compute
    from inference_server.errors import ModelUnavailableError
    from inference_server.segmentation.local import LocalSegmentationService

    figures: list[Figure] = []
    memory: dict[str, dict[str, int]] = {}
    try:
        compute = choose_compute(settings.device, settings.dtype)
        if dtype == "each" or (dtype is None and settings.dtype == "auto"):
            measured = arithmetics(compute)
        else:
            measured = [compute.dtype_name]
        for one in measured:
            peak = PeakMemory(compute)
            own = settings.model_copy(update={"dtype": one})
            with closing(LocalSegmentationService.for_files(own)) as segmenter:
                made = Bench(segmenter, size, image, seconds)
                figures += asyncio.run(_measure(made, only))
                effort = segmenter.models.effort
            memory[one] = peak.values()
            del made, segmenter
    except ModelUnavailableError as error:
        raise click.ClickException(error.message) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    where = {
        **machine(),
        "device": str(compute.device),
        "dtype": compute.dtype_name,  # of the server with these settings
        "threads": str(effort.threads),
        "image": f"{image[0]}x{image[1]}",
        "inference-server": __version__,
    }
    accelerator = f"{where['accelerator']}, " if compute.device.type == "cuda" else ""
    title = (
        f"{accelerator}{where['processor']}, {where['threads']} threads; {where['device']}; "
        f"{where['image']}"
    )
    notes = _notes(figures, memory, compute.dtype_name)
    if as_json:
        content = {
            "machine": where,
            "figures": [figure.values() for figure in figures],
            "memory": memory,
            "notes": notes,
        }
        click.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
    else:
        from rich.console import Console

        console = Console()
        for one in memory:
            shown = [figure for figure in figures if figure.dtype == one]
            console.print(_table(shown, f"{title}; {one}"))
        for note in notes:
            console.print(note, highlight=False)
    if plot is not None:
        from inference_server.bench.plot import plot as draw

        try:
            draw(figures, title, plot)
        except OSError as error:
            raise click.ClickException(f"Cannot write {plot}: {error.strerror}.") from None


async def _measure(made: Bench, only: str | None) -> list[Figure]:
    from rich.console import Console

    figures = []
    with Console(stderr=True).status("Measuring") as status:
        async for figure in made.run(sam2=only != "sam3", sam3=only != "sam2"):
            figures.append(figure)
            status.update(f"Measured {figure.model}: {figure.name}")
    return figures


def _notes(figures: list[Figure], memory: dict[str, dict[str, int]], chosen: str) -> list[str]:
    """Return sentences on the figures: memory, the server's precision, demo weights."""
    notes = []
    for dtype, peaks in memory.items():
        parts = [f"{peaks['peak_resident_mb']:,} MB resident"] if peaks["peak_resident_mb"] else []
        if "peak_gpu_mb" in peaks:
            parts.append(f"{peaks['peak_gpu_mb']:,} MB on the GPU")
        if parts:
            notes.append(f"Peak memory in {dtype}: {', '.join(parts)}.")
    notes.append(f"With these settings the server computes in {chosen}.")
    if any(figure.model.endswith("/demo") for figure in figures):
        notes.append(
            "The demo weights are a hundred times smaller than real ones: their figures say "
            "nothing about a real model. Name your weights with --sam2-weights or --sam3-weights."
        )
    return notes


def _table(figures: list[Figure], title: str) -> Table:
    """Format the figures as a table with a bar for each median."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption="Times in ms", box=box.SIMPLE_HEAD)
    for name in ("model", "work"):
        table.add_column(name, no_wrap=True)
    for name in ("median", "p90", "per second"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    longest = max(figure.timing.median for figure in figures)
    for figure in figures:
        table.add_row(
            figure.model,
            figure.name,
            _three_digits(figure.timing.median * 1e3),
            _three_digits(figure.timing.percentile(0.9) * 1e3),
            _three_digits(figure.rate),
            "━" * max(1, round(_BAR * figure.timing.median / longest)),
        )
    return table


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
