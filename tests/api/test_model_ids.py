"""The ids of models that Roboflow's clients send."""

from __future__ import annotations

import pytest

from inference_server.api.model_ids import concept_model_of, id_of, ids_of, model_of
from inference_server.engines.catalog import DEFAULT_SAM3, Catalog, ModelKey
from inference_server.errors import PromptError
from inference_server.settings import Settings


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (DEFAULT_SAM3, "sam3/sam3_final"),
        (ModelKey("sam3", "crops/3"), "crops/3"),
        (ModelKey("sam2", "hiera_b_plus"), "sam2/hiera_b_plus"),
        (ModelKey("sam2", "cells"), "sam2/cells"),
        (ModelKey("sam1", "vit_h"), "sam/vit_h"),
    ],
)
def test_ids_are_those_of_roboflow(key: ModelKey, name: str) -> None:
    assert id_of(key) == name


def test_every_model_has_an_id() -> None:
    catalog = Catalog(Settings(sam3_models={"crops/3": "demo"}, sam2_models={"cells": "demo"}))
    ids = ids_of(catalog)
    assert set(ids.values()) == set(catalog.keys)
    assert {model_of(catalog, each) for each in ids} == set(catalog.keys)
    assert concept_model_of(catalog, "crops/3") == ModelKey("sam3", "crops/3")


def test_a_sam3_has_precedence_because_it_has_no_other_id() -> None:
    catalog = Catalog(Settings(sam3_models={"sam2/hiera_tiny": "demo"}))
    assert model_of(catalog, "sam2/hiera_tiny") == ModelKey("sam3", "sam2/hiera_tiny")


def test_an_unknown_id_is_refused_with_the_known_ones() -> None:
    catalog = Catalog(Settings(sam2_weights="none", sam1_weights="none", sam2_models={"a": "demo"}))
    with pytest.raises(PromptError) as caught:
        model_of(catalog, "b")
    assert caught.value.message == "Unknown model_id. This server has sam3/sam3_final, sam2/a."
    with pytest.raises(PromptError) as caught:
        concept_model_of(catalog, "sam2/a")
    assert caught.value.message == "Unknown model_id. This server has sam3/sam3_final."
