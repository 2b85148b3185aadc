"""The page at `/` and the API reference at `/docs`: plain HTML, CSS and JavaScript, no build step.

`assets.py` reads and compresses the files; `static/` holds them, one noun a module.
"""

from inference_server.playground.assets import NAMES, SCENES, Asset, load

__all__ = ["NAMES", "SCENES", "Asset", "load"]
