"""Command line of the benchmarks: `python -m benchmarks`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from benchmarks.report import Report
from benchmarks.summary import summary

BENCHMARKS = {
    "abandoned": "clicks beside overlays of 50 MP whose clients hang up",
    "sizes": "memory per embedding, images per cache, memory of the weights",
    "arithmetic": "masks in bfloat16 compared with those in float32",
    "embeddings": "embeddings in half precision: size, time, masks",
    "thresholds": "concept masks from logits or from probabilities: differing pixels",
    "images": "from a base64 photograph of 12 MP to the model's input",
    "masks": "low-resolution logits to polygons, RLE and NMS: time and memory",
    "batch": "`segment` on many files: images in parallel against one by one",
    "automatic": "automatic masks: three image sizes, two grids",
    "boxes": "1 to 64 boxes in one request",
    "click": "a click on a cached image over HTTP: three image sizes",
    "clients": "many clients clicking, and clicks while others encode",
    "cluster": "a cluster against one process; throughput by number of replicas",
    "cold": "a click on a new image",
    "concept": "a concept on a cached image, with SAM 3 at its published size",
    "one_model": "a word and a click on one image: SAM 3 alone, or SAM 3 and SAM 2",
    "encode": "the image encoders alone, in both precisions: time and memory",
    "decoders": "what follows the encoders: where the time goes, and the products alone",
    "flight": "20 simultaneous requests for one new image",
    "forms": "an image as a file of a form against base64 in JSON",
    "overhead": "CPU time of a cached click outside the model",
    "rasters": "reading rasters of 50 to 800 MP by windows: memory and time",
    "scaling": "10 to 1000 simulated replicas: hash ring, hit rates, latency, hot images",
    "soak": "all endpoints at several times capacity, every response checked",
    "stores": "throughput of PostgreSQL and Redis: jobs, credits, rates",
    "tiles": "rasters window by window: accuracy at the seams, memory and time by size",
    "startup": "start-up time and idle memory",
    "gpu": "everything on a GPU, against the same models run eagerly; only if named",
}
"""Descriptions by name; each is a module with `run(small: bool) -> Report`."""

IN_EITHER_DTYPE = frozenset(("boxes", "click", "clients", "concept"))
"""Benchmarks whose `run` has the argument `dtype`."""

_NAMED = ("gpu",)
"""Benchmarks that run only if they are named."""

RESULTS = Path(__file__).parent / "results"


@click.command(
    epilog="Benchmarks:\n\n\b\n" + "\n".join(f"{n:12}{t}" for n, t in BENCHMARKS.items())
)
@click.argument("names", nargs=-1, type=click.Choice([*BENCHMARKS]))
@click.option("--small", is_flag=True, help="Use the demo models; a few seconds each.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for NAME.md and NAME.json.  [default: benchmarks/results; none with --small]",
)
@click.option(
    "--seconds", type=float, help="Duration of `soak` in seconds.  [default: 240; 5 with --small]"
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Precision of the server in `boxes`, `click`, `clients` and `concept`; the references "
    "compute in float32.",
)
@click.option("--device", default="auto", help="Device of `gpu`.  [default: CUDA]")
def main(
    names: tuple[str, ...],
    small: bool,
    out: Path | None,
    seconds: float | None,
    dtype: str,
    device: str,
) -> None:
    """Run the named benchmarks, or all that need no GPU."""
    results = out if small else out or RESULTS
    for name in names or (name for name in BENCHMARKS if name not in _NAMED):
        click.echo(f"{name}: {BENCHMARKS[name]}", err=True)
        more: dict[str, Any] = {"seconds": seconds} if name == "soak" else {}
        if name in IN_EITHER_DTYPE:
            more = {"dtype": dtype}
        if name == "gpu":
            more = {"device": device, "save": results and (lambda report: report.write(results))}
        report: Report = importlib.import_module(f"benchmarks.{name}").run(small, **more)
        click.echo(report.markdown())
        if results:
            report.write(results)
    if not small and out is None:
        page = summary(RESULTS, BENCHMARKS)
        (RESULTS.parent / "README.md").write_text(page, "utf-8")


if __name__ == "__main__":
    main()
