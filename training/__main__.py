"""Command line of the training: `python -m training concept | visual | evaluate`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from rich.progress import Progress, track

from inference_server.demo import WEIGHTS

_RUNS = Path("runs")


def _device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Train and evaluate the demo checkpoints.

    A run can be interrupted and resumed: it continues from its last saved state. It prints its
    progress and appends its learning curve to `curve.jsonl` in its directory.
    """


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=_RUNS / "concept",
    help="Directory of the run.",
)
@click.option(
    "--backbone-minutes", default=15.0, help="Minutes of the first stage, on dense labels."
)
@click.option("--minutes", default=75.0, help="Minutes of the second stage, on the whole model.")
@click.option("--threads", default=1, help="Number of CPU threads.")
@click.option("--device", default="auto", help="Device: auto, cpu or cuda.")
@click.option("--seed", default=0, help="Seed of weights, scenes and prompts.")
@click.option("--improve", is_flag=True, help="Continue from the included checkpoint.")
def concept(
    out: Path,
    backbone_minutes: float,
    minutes: float,
    threads: int,
    device: str,
    seed: int,
    improve: bool,
) -> None:
    """Train the demo SAM 3 and write it to the package."""
    from training.concept import export, train

    train(
        out,
        backbone_minutes=backbone_minutes,
        minutes=minutes,
        threads=threads,
        device=_device(device),
        seed=seed,
        start_from=WEIGHTS / "sam3" if improve else None,
    )
    export(out, WEIGHTS / "sam3")


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=_RUNS / "visual",
    help="Directory of the run.",
)
@click.option("--minutes", default=75.0, help="Minutes of training.")
@click.option("--threads", default=1, help="Number of CPU threads.")
@click.option("--device", default="auto", help="Device: auto, cpu or cuda.")
@click.option("--seed", default=0, help="Seed of weights, scenes and prompts.")
def visual(out: Path, minutes: float, threads: int, device: str, seed: int) -> None:
    """Train the demo SAM 2 and write it to the package."""
    from training.visual import export, train

    train(out, minutes, threads=threads, device=_device(device), seed=seed)
    export(out, WEIGHTS / "sam2")


@main.command()
@click.option("--scenes", "count", default=300, help="Number of scenes.")
@click.option(
    "--automatic-scenes", "everything", default=40, help="Number of scenes for automatic masks."
)
@click.option(
    "--only",
    type=click.Choice(["concept", "visual", "automatic"]),
    help="Evaluate one kind of segmentation only.",
)
@click.option("--sam3-weights", default="demo", help="As INFERENCE_SAM3_WEIGHTS.")
@click.option("--sam2-weights", default="demo", help="As INFERENCE_SAM2_WEIGHTS.")
@click.option("--device", default="auto", help="Device: auto, cpu or cuda.")
def evaluate(
    count: int,
    everything: int,
    only: str | None,
    sam3_weights: str,
    sam2_weights: str,
    device: str,
) -> None:
    """Evaluate the checkpoints on scenes that were not used in training; print a table."""
    from training import evaluate as ev
    from training.evaluate_automatic import AutomaticEvaluation

    concept_report = ev.ConceptReport() if only in (None, "concept") else None
    visual_report = ev.VisualReport() if only in (None, "visual") else None
    automatic = None
    concepts = ev.ConceptEvaluation(sam3_weights, device) if concept_report else None
    visuals = ev.VisualEvaluation(sam2_weights, device) if visual_report else None
    rng = np.random.default_rng(0)
    if only == "automatic":
        count = 0
    for size, scene in track(ev.scenes(count), description="scenes", total=count):
        if concepts and concept_report:
            concepts.run(scene, size, rng, concept_report)
        if visuals and visual_report:
            visuals.run(scene, size, visual_report)
    if only in (None, "automatic"):
        scenes = [scene for _, scene in ev.scenes(everything)]
        with Progress() as progress:
            task = progress.add_task("automatic masks", total=len(scenes))
            automatic = AutomaticEvaluation(sam2_weights, device).run(
                scenes, lambda: progress.advance(task)
            )
    click.echo(ev.table(concept_report, visual_report, automatic))


if __name__ == "__main__":
    main()
