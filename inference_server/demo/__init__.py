"""The demo checkpoints: vocabulary, generated scenes and weights."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""Directory of the demo checkpoints, in the layouts of the published ones."""

SAMPLE = Path(__file__).parent / "scene.jpg"
"""A generated scene as a JPEG file, for examples."""
