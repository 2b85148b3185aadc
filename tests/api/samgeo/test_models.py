"""The models that samgeo's requests select."""

from __future__ import annotations

import pytest

from inference_server.api.samgeo.models import automatic_version, id_of, ids_of, model_of
from inference_server.engines.catalog import DEFAULT_SAM3, Catalog, ModelKey
from inference_server.errors import ModelUnavailableError
from inference_server.settings import Settings
from inference_server.settings.types import SettingsError
from schemas.samgeo import AutomaticRequest


def test_every_version_has_its_published_ids_and_the_configured_ones() -> None:
    catalog = Catalog(Settings(sam3_models={"crops/3": "demo"}, sam2_models={"cells": "demo"}))
    assert ids_of(catalog, "sam") == ["vit_h", "vit_l", "vit_b"]
    assert ids_of(catalog, "sam2")[-1] == "cells"
    assert ids_of(catalog, "sam3") == ["facebook/sam3", "crops/3"]
    assert model_of(catalog, "sam2", None) == ModelKey("sam2", "hiera_large")
    assert model_of(catalog, "sam2", "sam2-hiera-base-plus") == ModelKey("sam2", "hiera_b_plus")
    assert model_of(catalog, "sam2", "cells") == ModelKey("sam2", "cells")
    assert model_of(catalog, "sam3", None) is None
    assert model_of(catalog, "sam3", "facebook/sam3") == DEFAULT_SAM3
    assert model_of(catalog, "sam3", "crops/3") == ModelKey("sam3", "crops/3")


@pytest.mark.parametrize("weights", ["facebook/sam3", "facebook/sam3.1"])
def test_a_later_release_is_listed_only_where_it_is_configured(weights: str) -> None:
    catalog = Catalog(Settings(sam3_weights=weights))
    assert id_of(DEFAULT_SAM3, catalog.checkpoint(DEFAULT_SAM3).name) == ["sam3", weights]
    assert ("facebook/sam3.1" in ids_of(catalog, "sam3")) == (weights == "facebook/sam3.1")
    assert model_of(catalog, "sam3", weights) == DEFAULT_SAM3
    assert model_of(catalog, "sam3", "facebook/sam3") == DEFAULT_SAM3


def test_a_version_without_weights_is_refused_with_those_that_have_some() -> None:
    catalog = Catalog(Settings(sam1_weights="none", sam2_weights="none"))
    for version, family in (("sam", 1), ("sam2", 2)):
        with pytest.raises(ModelUnavailableError) as caught:
            model_of(catalog, version, None)
        assert caught.value.message == (
            f"This server has no SAM {family}: INFERENCE_SAM{family}_WEIGHTS=none. It has SAM 3. "
            "Use model_version=sam3."
        )


@pytest.mark.parametrize(
    ("followed", "default"),
    [
        ("1.3.0", "sam2"),
        ("1.3.2", "sam2"),
        ("1.3.3", "sam3"),
        ("1.10.0", "sam3"),
        ("2.0.1", "sam3"),
    ],
)
def test_the_default_of_automatic_is_that_of_the_followed_version(
    followed: str, default: str
) -> None:
    form = AutomaticRequest.model_construct(_fields_set=set(), file=None)
    assert automatic_version(form, followed) == default
    for version in ("sam", "sam2", "sam3"):
        named = AutomaticRequest.model_construct(
            _fields_set={"model_version"}, model_version=version, file=None
        )
        assert automatic_version(named, followed) == version
    assert Settings().samgeo_version == "1.3.2"


@pytest.mark.parametrize("version", ["1.3", "1.3.3rc1", "newest", "1..3", "1.3.\u0663"])
def test_a_version_is_three_numbers(version: str) -> None:
    with pytest.raises(SettingsError, match=r"SAMGEO_VERSION.* a version such as 1\.3\.3"):
        Settings(samgeo_version=version)
