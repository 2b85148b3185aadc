"""What the embedded demo checkpoints know: their words, their scenes, their weights."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""Directory of the demo checkpoints, in the layouts in which real ones are published."""

SAMPLE = Path(__file__).parent / "scene.jpg"
"""A generated scene as a file, for examples."""
