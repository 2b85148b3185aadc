"""Plots figures. Needs matplotlib, which the extra `plot` installs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from inference_server.bench.figures import Figure

_TITLE_WIDTH = 90


def plot(figures: Sequence[Figure], title: str, path: Path) -> None:
    """Write a bar chart of medians, with error bars up to the 90th percentile.

    Args:
        figures: the figures, from top to bottom.
        title: title of the chart.
        path: file to write; its suffix selects the format, such as `.png` or `.svg`.

    Raises:
        OSError: the file cannot be written.
        ValueError: matplotlib does not support the format.
    """
    from matplotlib.figure import Figure as Canvas  # without pyplot: no window, no global state

    canvas = Canvas(figsize=(7, 1.1 + 0.45 * len(figures)), layout="constrained")
    axes = canvas.subplots()
    places = range(len(figures))
    medians = [figure.timing.median * 1e3 for figure in figures]
    tails = [
        figure.timing.percentile(0.9) * 1e3 - median
        for figure, median in zip(figures, medians, strict=True)
    ]
    families = sorted({figure.model for figure in figures})
    colors = [f"C{families.index(figure.model)}" for figure in figures]
    axes.barh(places, medians, xerr=[[0.0] * len(tails), tails], color=colors, capsize=3)
    for place, figure, median, tail in zip(places, figures, medians, tails, strict=True):
        axes.annotate(
            f" {median:.3g} ms, {figure.rate:.3g}/s",
            (median + tail, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(places, [f"{each.model}, {each.dtype}: {each.name}" for each in figures])
    axes.invert_yaxis()
    axes.set_xscale("log")
    # Leave space for the text beside the longest bar.
    axes.set_xlim(min(medians) / 2, max(map(sum, zip(medians, tails, strict=True))) * 12)
    axes.set_xlabel("milliseconds, median and 90th percentile")
    canvas.suptitle(textwrap.fill(title, _TITLE_WIDTH), fontsize="small")
    canvas.savefig(path, dpi=120)
