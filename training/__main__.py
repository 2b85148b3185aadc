"""Command line of the training: `python -m training all`, its stages, and `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import numpy as np
import torch
from rich.progress import Progress, track

from inference_server.demo import WEIGHTS

if TYPE_CHECKING:
    from training.evaluate_visual import Family

_RUNS = Path("runs")
Command = TypeVar("Command", bound=Callable[..., None])


def _device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _run_options(name: str, minutes: float) -> Callable[[Command], Command]:
    """Add the options that the trainings on clicks and boxes share.

    Args:
        name: name of the run's directory.
        minutes: default duration.
    """
    options = (
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=_RUNS / name,
            help="Directory of the run.",
        ),
        click.option("--minutes", default=minutes, help="Minutes of training."),
        click.option("--threads", default=1, help="Number of CPU threads."),
        click.option("--device", default="auto", help="Device: auto, cpu or cuda."),
        click.option("--seed", default=0, help="Seed of weights, scenes and prompts."),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):  # as decorators, of which the last is applied first
            command = option(command)
        return command

    return add


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
@_run_options("visual", minutes=75.0)
@click.option("--improve", is_flag=True, help="Continue from the included checkpoint.")
def visual(out: Path, minutes: float, threads: int, device: str, seed: int, improve: bool) -> None:
    """Train the demo SAM 2 and write it to the package."""
    from training.visual import export, train

    weights = WEIGHTS / "sam2"
    start = weights if improve else None
    train(out, minutes, threads=threads, device=_device(device), seed=seed, start_from=start)
    export(out, weights)


@main.command()
@_run_options("head", minutes=34.0)
def head(out: Path, minutes: float, threads: int, device: str, seed: int) -> None:
    """Train the demo SAM 3's visual head and write it to the package."""
    from training.head import export, train

    weights = WEIGHTS / "sam3"
    train(out, minutes, threads=threads, device=_device(device), weights=weights, seed=seed)
    export(out, weights)


@main.command()
@_run_options("joint", minutes=123.0)
def joint(out: Path, minutes: float, threads: int, device: str, seed: int) -> None:
    """Train the demo SAM 3 and its head together, from the included ones, and write them."""
    from training.joint import export, train

    weights = WEIGHTS / "sam3"
    train(out, minutes, threads=threads, device=_device(device), weights=weights, seed=seed)
    export(out, weights)


@main.command("second-click")
@_run_options("second-click", minutes=12.0)
def second_click(out: Path, minutes: float, threads: int, device: str, seed: int) -> None:
    """Train the demo SAM 3's visual head for second clicks, from the included one, and write it."""
    from training.head import export, train
    from training.second_click import SecondClickTraining

    weights = WEIGHTS / "sam3"
    train(
        out,
        minutes,
        threads=threads,
        device=_device(device),
        weights=weights,
        seed=seed,
        kind=SecondClickTraining,
    )
    export(out, weights)


@main.command()
@_run_options("sam1", minutes=75.0)
def sam1(out: Path, minutes: float, threads: int, device: str, seed: int) -> None:
    """Train the demo SAM 1, starting from the demo SAM 3, and write it to the package."""
    from training.sam1 import export, train

    teacher = WEIGHTS / "sam3"
    train(out, minutes, threads=threads, device=_device(device), weights=teacher, seed=seed)
    export(out, WEIGHTS / "sam1")


_STAGES: tuple[tuple[str, click.Command, dict[str, object]], ...] = (
    ("concept", concept, {}),
    ("head", head, {}),
    ("improved", concept, {"improve": True, "minutes": 38.0}),
    ("joint", joint, {}),
    ("second-click", second_click, {}),
    ("visual", visual, {}),
    ("visual-improved", visual, {"improve": True, "minutes": 50.0}),
    ("sam1", sam1, {}),
)
"""Directory, command and options of each stage, in the order in which they need each other."""


@main.command("all")
@click.option(
    "--out", type=click.Path(path_type=Path), default=_RUNS, help="Directory of the runs."
)
@click.option("--threads", default=1, help="Number of CPU threads.")
@click.option("--device", default="auto", help="Device: auto, cpu or cuda.")
@click.option("--seed", default=0, help="Seed of weights, scenes and prompts.")
@click.pass_context
def everything(context: click.Context, out: Path, threads: int, device: str, seed: int) -> None:
    """Train all demo checkpoints from random weights and write them to the package.

    Finished stages are not repeated when an interrupted run continues.
    """
    common = {"threads": threads, "device": device, "seed": seed}
    for number, (name, command, options) in enumerate(_STAGES, start=1):
        done = out / name / "done"
        click.echo(f"stage {number} of {len(_STAGES)}: {name}{' (done)' if done.exists() else ''}")
        if not done.exists():
            context.invoke(command, out=out / name, **common, **options)
            done.touch()


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
@click.option(
    "--family",
    "families",
    type=click.Choice(["sam1", "sam2", "sam3"]),
    multiple=True,
    default=["sam1", "sam2", "sam3"],
    help="Model that answers clicks and boxes; repeat for several.",
)
@click.option("--sam3-weights", default="demo", help="As INFERENCE_SAM3_WEIGHTS.")
@click.option("--sam2-weights", default="demo", help="As INFERENCE_SAM2_WEIGHTS.")
@click.option("--sam1-weights", default="demo", help="As INFERENCE_SAM1_WEIGHTS.")
@click.option("--device", default="auto", help="Device: auto, cpu or cuda.")
@click.option("--validation", is_flag=True, help="Use the scenes on which constants are chosen.")
@click.option(
    "--mosaics", "mosaic_count", default=40, help="Number of mosaics of scenes for texts."
)
@click.option(
    "--presence-shift", default=0.0, help="Added to SAM 3's presence logit, to compare constants."
)
def evaluate(
    count: int,
    everything: int,
    only: str | None,
    families: tuple[Family, ...],
    sam3_weights: str,
    sam2_weights: str,
    sam1_weights: str,
    device: str,
    validation: bool,
    mosaic_count: int,
    presence_shift: float,
) -> None:
    """Evaluate the checkpoints on scenes that were not used in training; print a table."""
    from training import evaluate as ev
    from training.evaluate_automatic import AutomaticEvaluation, AutomaticReport
    from training.evaluate_concept import ConceptEvaluation, ConceptReport
    from training.evaluate_visual import PromptedEngine, VisualEvaluation, VisualReport
    from training.scores import FIRST_SEED, VALIDATION_SEED, mosaics, scenes

    first = VALIDATION_SEED if validation else FIRST_SEED
    weights = {"sam1": sam1_weights, "sam2": sam2_weights, "sam3": sam3_weights}
    concept = ConceptReport() if only in (None, "concept") else None
    concepts = ConceptEvaluation(sam3_weights, device, presence_shift) if concept else None
    engines = {}
    if only != "concept":
        engines = {family: PromptedEngine(family, weights[family], device) for family in families}
    visual: dict[str, VisualReport] = {
        name: VisualReport() for name in engines if only in (None, "visual")
    }
    named: Mapping[str, PromptedEngine] = {str(name): each for name, each in engines.items()}
    rng = np.random.default_rng(0)
    if only == "automatic":
        count = 0
    for size, scene in track(scenes(count, first), description="scenes", total=count):
        if concepts and concept:
            concepts.run(scene, size, rng, concept)
        for family, report in visual.items():
            VisualEvaluation(named[family]).run(scene, size, report)
    if concepts and concept:
        for mosaic in track(mosaics(mosaic_count, first), "mosaics", total=mosaic_count):
            concepts.run_mosaic(mosaic, concept)
    automatic: dict[str, AutomaticReport] = {}
    if only in (None, "automatic"):
        shown = [scene for _, scene in scenes(everything, first)]
        with Progress() as progress:
            task = progress.add_task("automatic masks", total=len(shown) * len(engines))
            for family, engine in engines.items():
                automatic[family] = AutomaticEvaluation(engine).run(
                    shown, lambda: progress.advance(task)
                )
    click.echo(ev.table(concept, visual, automatic))


if __name__ == "__main__":
    main()
