"""Runs in X-AnyLabeling's environment: its client, without its window.

    python x_anylabeling.py SETTINGS.yaml IMAGE < calls.json > results.json

Each call names a model and has marks or a text, as the program's controls set them.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"

import anylabeling.config
from PyQt6.QtGui import QGuiApplication, QImage

SETTINGS, IMAGE = sys.argv[1:]
anylabeling.config.current_config_file = SETTINGS
application = QGuiApplication([])

# It reads the settings when it is imported.
from anylabeling.services.auto_labeling.remote_server import RemoteServer  # noqa: E402


def answer(call: dict[str, Any]) -> dict[str, Any]:
    """Set the controls, run the model, and return what the program would show."""
    told: list[str] = []
    server = RemoteServer(
        {"type": "remote_server", "display_name": "remote", "timeout": 180}, told.append
    )
    models = server.get_available_models()
    server.set_model_id(call["model"])
    # As the window does when a model is selected.
    for widget in models.get(call["model"], {}).get("widgets", []):
        if widget["name"] == "edit_conf":
            server.set_auto_labeling_conf(widget["value"])
        if widget["name"] == "toggle_preserve_existing_annotations":
            server.set_auto_labeling_preserve_existing_annotations_state(widget["value"])
        if widget["name"] == "mask_fineness_slider":
            server.set_mask_fineness(widget["value"] / 10_000)
    server.set_auto_labeling_marks(call.get("marks", []))
    path = IMAGE if call.get("by_path", True) else None
    result = server.predict_shapes(QImage(IMAGE), path, text_prompt=call.get("text"))
    return {
        "models": list(models),
        "batch": server.get_batch_processing_mode(),
        "replace": result.replace,
        "description": result.description,
        "told": told,
        "shapes": [
            {
                "label": shape.label,
                "shape_type": shape.shape_type,
                "score": shape.score,
                "group_id": shape.group_id,
                "points": [[point.x(), point.y()] for point in shape.points],
            }
            for shape in result.shapes
        ],
    }


results = [answer(call) for call in json.load(sys.stdin)]
sys.stdout.write("\n" + json.dumps(results) + "\n")
