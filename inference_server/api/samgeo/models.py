"""The models that samgeo's requests select, by a `model_version` and perhaps a `model_id`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from inference_server.engines.catalog import DEFAULT_SAM3, Catalog, Family, ModelKey
from inference_server.engines.sam1.weights import SAM1_VERSIONS
from inference_server.engines.weights import SAM2_IDS, SAM3_ID, SAM3_NAME
from inference_server.errors import ModelUnavailableError
from inference_server.settings.samgeo import release
from schemas.samgeo import AutomaticRequest

_FAMILIES: Mapping[str, Family] = MappingProxyType({"sam": "sam1", "sam2": "sam2", "sam3": "sam3"})
"""Families by `model_version`."""

_PUBLISHED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "sam": {name: name for name in reversed(SAM1_VERSIONS)},
        "sam2": SAM2_IDS,
        "sam3": {SAM3_ID: SAM3_NAME},
    }
)
"""By version: names of models by the ids that samgeo's clients know."""


_SAM3_1 = "facebook/sam3.1"
"""Id of a later release of SAM 3, listed only where it is the configured one."""


_AUTOMATIC_WITH_SAM3 = (1, 3, 3)
"""The version of samgeo from which on its `automatic` uses SAM 3 by default."""


def automatic_version(form: AutomaticRequest, samgeo_version: str) -> str:
    """Return the `model_version` of a form, or the default of a version of samgeo.

    Args:
        form: the form.
        samgeo_version: version of samgeo that the server follows.
    """
    if "model_version" in form.model_fields_set or release(samgeo_version) < _AUTOMATIC_WITH_SAM3:
        return form.model_version
    return "sam3"


def id_of(key: ModelKey, source: str) -> list[str]:
    """Return the `model_version` and the `model_id` of a model.

    Args:
        key: the model.
        source: name of its weights.
    """
    if key == DEFAULT_SAM3 and source == _SAM3_1:
        return ["sam3", source]
    version = next(version for version, family in _FAMILIES.items() if family == key.family)
    published = {name: each for each, name in _PUBLISHED[version].items()}
    return [version, published.get(key.name, key.name)]


def ids_of(catalog: Catalog, version: str) -> list[str]:
    """Return the ids that a request with a version may send.

    Args:
        catalog: the configured models.
        version: one of `MODEL_VERSIONS`.
    """
    keys = [key for key in catalog.keys if key.family == _FAMILIES[version]]
    own = [id_of(key, catalog.checkpoint(key).name)[1] for key in keys]
    return list(dict.fromkeys([*_PUBLISHED[version], *own]))


def model_of(catalog: Catalog, version: str, model_id: str | None) -> ModelKey | None:
    """Return the model that a request selects.

    Args:
        catalog: the configured models.
        version: one of `MODEL_VERSIONS`.
        model_id: one of `ids_of`; None for the largest model of the version.

    Returns:
        The model; None for the SAM 3 of the server, and what answers its points.

    Raises:
        ModelUnavailableError: no weights of the version are configured.
    """
    family = _FAMILIES[version]
    try:
        largest = catalog.largest(family)
    except ModelUnavailableError as error:
        usable = [each for each, known in _FAMILIES.items() if known in catalog.families]
        told = f"{error.message} Use model_version={' or '.join(usable)}."
        raise ModelUnavailableError(told) from None
    if model_id is not None:
        if model_id == id_of(DEFAULT_SAM3, catalog.checkpoint(DEFAULT_SAM3).name)[1]:
            return DEFAULT_SAM3
        return ModelKey(family, _PUBLISHED[version].get(model_id, model_id))
    return None if family == "sam3" else largest
