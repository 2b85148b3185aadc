"""The playground at `/` and the API reference at `/docs`: HTML, CSS and JavaScript, no build step.

`assets.py` reads and compresses the files in `static/`.
"""

from inference_server.playground.assets import NAMES, SCENES, Asset, load

__all__ = ["NAMES", "SCENES", "Asset", "load"]
