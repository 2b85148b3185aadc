"""The models in X-AnyLabeling's menu, and the controls that it shows for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from inference_server.api.model_ids import id_of
from inference_server.engines.catalog import DEFAULT_SAM3, Catalog, ModelKey
from inference_server.errors import UnknownModelError
from schemas.x_anylabeling import CONCEPTS, VISUAL

DEFAULT_CONFIDENCE = 0.25
"""Initial minimum confidence of words and exemplars, as in the vendor's server."""

_FINENESS: list[dict[str, Any]] = [
    {"name": "mask_fineness_slider", "value": 10},
    {"name": "mask_fineness_value_label"},
]
# After an error the program removes all shapes unless this is on.
_PRESERVE: dict[str, Any] = {"name": "toggle_preserve_existing_annotations", "value": True}

_WIDGETS: dict[str, list[dict[str, Any]]] = {
    "concept": [
        {"name": "edit_text", "placeholder": "person, red car"},
        {"name": "button_send"},
        {"name": "add_pos_rect"},
        {"name": "add_neg_rect"},
        {"name": "button_run_rect"},
        {"name": "button_clear"},
        {"name": "button_finish_object"},
        {"name": "input_conf"},
        {"name": "edit_conf", "value": DEFAULT_CONFIDENCE},
        *_FINENESS,
        _PRESERVE,
    ],
    "visual": [
        {"name": "button_add_point"},
        {"name": "button_remove_point"},
        {"name": "button_add_rect"},
        {"name": "button_clear"},
        {"name": "button_finish_object"},
        *_FINENESS,
        _PRESERVE,
    ],
}


@dataclass(frozen=True, slots=True)
class MenuModel:
    """A model in the menu.

    Attributes:
        id: its id in requests.
        key: the model that answers; None for the server's choice.
        prompts: what it takes: `concept` (words, exemplars) or `visual` (points, rectangles).
        name: its name in the menu.
    """

    id: str
    key: ModelKey | None
    prompts: Literal["concept", "visual"]
    name: str

    def info(self) -> dict[str, Any]:
        """Return the description that the program builds its controls from."""
        return {
            "display_name": self.name,
            "widgets": _WIDGETS[self.prompts],
            "params": {},
            "capabilities": {},
            # Clicks belong to one image.
            "batch_processing_mode": "text_prompt" if self.prompts == "concept" else None,
        }


def menu_of(catalog: Catalog) -> dict[str, MenuModel]:
    """Return the models by id, in the order of the menu.

    The names tell the weights, so that demo weights are not taken for real ones.

    Args:
        catalog: the configured models.
    """
    words, label = "Words and examples", catalog.label(catalog.concept(None))
    models = [MenuModel(CONCEPTS, None, "concept", f"{words} ({label})")]
    if catalog.answers_points:
        label = catalog.label(catalog.visual(None))
        models.append(MenuModel(VISUAL, None, "visual", f"Clicks and boxes ({label})"))
    models += [
        MenuModel(id_of(key), key, "concept", f"{words} ({catalog.label(key)})")
        for key in catalog.keys
        if key.family == DEFAULT_SAM3.family and key != DEFAULT_SAM3
    ]
    return {model.id: model for model in models}


def model_of(catalog: Catalog, model_id: str) -> MenuModel:
    """Return a model of the menu.

    Args:
        catalog: the configured models.
        model_id: the id that a request sends.

    Raises:
        UnknownModelError: there is none; the message lists the known ids.
    """
    models = menu_of(catalog)
    if model_id not in models:
        raise UnknownModelError(f"Unknown model. This server has {', '.join(models)}.")
    return models[model_id]
