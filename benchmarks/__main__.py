"""`python -m benchmarks`: run benchmarks, and keep what they find."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from benchmarks.report import Report
from benchmarks.summary import summary

BENCHMARKS = {
    "sizes": "what an embedding takes of the cache, and how many images fit",
    "embeddings": "the cache in half precision: bytes, time, masks",
    "images": "a 12 MP photograph in base64, to the model's input",
    "masks": "low-resolution logits to polygons, run lengths, NMS: time and memory",
    "batch": "many images from files to files: several at a time against one after the other",
    "automatic": "everything in an image, three sizes of image, two grids",
    "boxes": "1 to 64 boxes in one request",
    "click": "a click on a cached image over HTTP, three sizes of image",
    "clients": "many clients that click, and clicks while others encode",
    "cluster": "a cluster against one process, and what more replicas bring",
    "cold": "a click on an image that the server has not seen",
    "concept": "a concept on a cached image: SAM 3 at its published size",
    "flight": "20 requests at once for one unseen image",
    "overhead": "processor time of a cached click besides the model's",
    "scaling": "10, 100 and 1000 replicas, simulated: the ring, hit rates, tails, hot images",
    "soak": "all endpoints at several times capacity: every answer checked; memory, probes",
    "stores": "what one PostgreSQL and one Redis take: jobs, credits, rates",
    "startup": "from the start of the process until it is ready; memory at rest",
}
"""Each is a module with `run(small: bool) -> Report`."""

RESULTS = Path(__file__).parent / "results"


@click.command(
    epilog="Benchmarks:\n\n\b\n" + "\n".join(f"{n:12}{t}" for n, t in BENCHMARKS.items())
)
@click.argument("names", nargs=-1, type=click.Choice([*BENCHMARKS]))
@click.option("--small", is_flag=True, help="A few seconds each, on the demo's small models.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where NAME.md and NAME.json go; {RESULTS.name}/ beside the code, or nowhere if --small.",
)
@click.option("--seconds", type=float, help="How long soak lasts, in place of four minutes.")
def main(names: tuple[str, ...], small: bool, out: Path | None, seconds: float | None) -> None:
    """Run benchmarks: those that are named, or all of them."""
    for name in names or BENCHMARKS:
        click.echo(f"{name}: {BENCHMARKS[name]}", err=True)
        more = {"seconds": seconds} if name == "soak" else {}
        report: Report = importlib.import_module(f"benchmarks.{name}").run(small, **more)
        click.echo(report.markdown())
        if out or not small:
            report.write(out or RESULTS)
    if not small and out is None:
        page = summary(RESULTS, BENCHMARKS)
        (RESULTS.parent / "README.md").write_text(page, "utf-8")


if __name__ == "__main__":
    main()
