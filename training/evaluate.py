"""Accuracy of the demo checkpoints on scenes that were not used in training, as a table.

The evaluations use the server's own engines and masks, so the figures apply to the server.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from training.evaluate_automatic import AutomaticReport
from training.evaluate_concept import ConceptReport
from training.evaluate_visual import VisualReport


def table(
    concept: ConceptReport | None,
    visual: Mapping[str, VisualReport],
    automatic: Mapping[str, AutomaticReport],
) -> str:
    """Format the figures as a Markdown table.

    Args:
        concept: PCS figures; None to omit.
        visual: PVS figures by family.
        automatic: figures of automatic masks by family.
    """
    lines = ["| metric | value | goal |", "|---|---|---|"]
    if concept is not None:
        total = concept.all_text
        lines += [
            f"| PCS text, F1 at mask IoU 0.5 | {total.f1:.3f} | 0.95 |",
            f"| PCS text, mean IoU of matches | {total.mean_iou:.3f} | 0.85 |",
        ]
        lines += [
            f'| PCS text such as "{kind}", F1 / IoU | {s.f1:.3f} / {s.mean_iou:.3f} | |'
            for kind, s in concept.text.items()
        ]
        lines += [
            f"| PCS text at {size}, F1 / IoU | {s.f1:.3f} / {s.mean_iou:.3f} | |"
            for size, s in concept.by_size.items()
        ]
        lines += [
            f"| PCS absent concept, no prediction | {concept.quiet} of {concept.absent} "
            f"({100 * concept.quiet / max(1, concept.absent):.1f} %) | 98 % |",
            f"| PCS one positive box, F1 / IoU | {concept.exemplar.f1:.3f} / "
            f"{concept.exemplar.mean_iou:.3f} | 0.90 |",
            f"| PCS text and a positive box, F1 / IoU | {concept.with_positive.f1:.3f} / "
            f"{concept.with_positive.mean_iou:.3f} | as text |",
            f"| PCS text and a negative box, F1 / IoU | {concept.with_negative.f1:.3f} / "
            f"{concept.with_negative.mean_iou:.3f} | |",
            f"| PCS text and a negative box, its kind is removed | {concept.removed} of "
            f"{concept.negative} ({100 * concept.removed / max(1, concept.negative):.1f} %) "
            "| 90 % |",
            f"| PCS one negative box, no prediction | {concept.only_negative_quiet} of "
            f"{concept.only_negative} | all |",
        ]
        mosaics = concept.mosaics
        if mosaics.wanted:
            lines.append(
                f"| PCS a colour or a shape on mosaics, F1 / wrong / missed of {mosaics.wanted} | "
                f"{mosaics.f1:.3f} / {mosaics.predicted - mosaics.hits} / "
                f"{mosaics.wanted - mosaics.hits} | |"
            )
    for family, report in visual.items():
        before, after = report.worst_quarter()
        for name, values, goal in (
            ("one click", report.click, "0.88"),
            ("box", report.box, "0.93"),
        ):
            every = np.concatenate([np.array(v) for v in values.values()])
            sizes = ", ".join(f"{np.mean(v):.3f} at {size}" for size, v in values.items())
            lines += [
                f"| {family} {name}, mean IoU | {every.mean():.3f} | {goal} |",
                f"| {family} {name}, by size | {sizes} | |",
            ]
        lines.append(
            f"| {family} worst quarter of clicks, before / after a second click | {before:.3f} / "
            f"{after:.3f} | raised |"
        )
    for family, found in automatic.items():
        score = found.score
        lines += [
            f"| {family} automatic masks, F1 at mask IoU 0.5 | {score.f1:.3f} | 0.90 |",
            f"| {family} automatic masks, precision / recall | "
            f"{score.hits / max(1, score.predicted):.3f} / "
            f"{score.hits / max(1, score.wanted):.3f} | |",
            f"| {family} automatic masks of three plain rectangles, right / all | "
            f"{found.rectangles} / {found.found} | 3 / 3 |",
        ]
    return "\n".join(lines)
