"""The models of this server by the ids that Roboflow's clients send."""

from __future__ import annotations

from collections.abc import Mapping

from inference_server.engines.catalog import DEFAULT_SAM3, Catalog, ModelKey
from inference_server.errors import PromptError


def id_of(key: ModelKey) -> str:
    """Return the id of a model.

    SAM 3 has its name, such as `sam3/sam3_final`; the others are `sam2/hiera_large`, `sam/vit_b`.

    Args:
        key: the model.
    """
    if key.family == "sam3":  # its ids, and only those, are names of models in requests
        return key.name
    return f"{'sam' if key.family == 'sam1' else key.family}/{key.name}"


def ids_of(catalog: Catalog) -> Mapping[str, ModelKey]:
    """Return all models by id; of several with one id, the SAM 3, which has no other.

    Args:
        catalog: the configured models.
    """
    return {id_of(key): key for key in reversed(catalog.keys)}


def model_of(catalog: Catalog, model_id: str) -> ModelKey:
    """Return the model with an id.

    Args:
        catalog: the configured models.
        model_id: the id that a request sends.

    Raises:
        PromptError: there is none; the message lists the known ids.
    """
    return _find(ids_of(catalog), model_id, known=[id_of(key) for key in catalog.keys])


def concept_model_of(catalog: Catalog, model_id: str) -> ModelKey:
    """Return the SAM 3 with an id.

    Args:
        catalog: see `model_of`.
        model_id: see `model_of`.

    Raises:
        PromptError: see `model_of`.
    """
    keys = [key for key in catalog.keys if key.family == DEFAULT_SAM3.family]
    return _find({id_of(key): key for key in keys}, model_id, known=[id_of(key) for key in keys])


def _find(models: Mapping[str, ModelKey], model_id: str, known: list[str]) -> ModelKey:
    if model_id not in models:
        raise PromptError(
            f"Unknown model_id. This server has {', '.join(known)}.", ("body", "model_id")
        )
    return models[model_id]
