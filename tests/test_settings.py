"""Settings: reading from the environment, validation, documentation."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import get_args

import pytest

from inference_server.settings import Settings, misspelled
from inference_server.settings.types import SettingsError, variable_of
from schemas.common import Limits
from tests.readme import GROUPS, NAMES, ROOT, SETTINGS_PAGE, settings_tables, with_tables

OTHER_VALUES = {
    "raster_directory": "/rasters",
    "host": "0.0.0.0",
    "api_keys": "one, two",
    "api_key_scopes": "segment",
    "redis_url": "rediss://:password@redis/1",
    "cors_origins": "https://example.com",
    "sam3_weights": "facebook/sam3",
    "sam2_weights": "facebook",
    "sam1_weights": "facebook",
    "sam1_models": '{"roofs": "/models/roofs.pth"}',
    "sam3_models": '{"crops/3": "/models/crops"}',
    "sam2_models": '{"cells": "/models/cells.pt"}',
    "preload": "sam2:sam2-hiera-tiny",
    "device": "cuda:1",
    "fetch_hosts": "images.example.com, *.example.org",
    "fetch_networks": "10.0.0.0/8, fd00::/8",
    "data_dir": "/var/lib/inference-server",
    "job_storage_share": "0.25",
    "database_url": "postgresql://user:password@db/jobs",
    "public_url": "https://masks.example.com",
    "trusted_proxies": "10.0.0.0/8",
    "samgeo_version": "1.3.3",
    "label_studio_url": "http://label-studio:8080",
    "label_studio_api_key": "token",
    "cluster_address": "auto",
    "cluster_ingress_replicas": "2",
    "cluster_concept_replicas": "1-8",
    "cluster_visual_replicas": "3-3",
}


def other_value(name: str) -> str:
    """Return a value other than the default, as text in the environment."""
    field = Settings.model_fields[name]
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if choices := get_args(field.annotation):
        return str(next(choice for choice in choices if choice != field.default))
    if isinstance(field.default, bool):
        return str(not field.default)
    return str(field.default + 1)


def test_each_setting_is_read_from_the_environment() -> None:
    for name in NAMES:
        value = other_value(name)
        with pytest.MonkeyPatch.context() as environment:
            environment.delenv(variable_of("dtype"), raising=False)  # set for all tests
            environment.setenv(variable_of(name), value)
            settings = Settings()
        read = getattr(settings, name)
        shown = ", ".join(read) if isinstance(read, tuple) else str(read)
        shown = json.dumps(read) if isinstance(read, dict) else shown
        assert shown == value, name
        rest = [other for other in NAMES if other != name]
        assert {n: getattr(settings, n) for n in rest} == {
            n: Settings.model_fields[n].default for n in rest
        }


def test_lists_are_comma_separated_in_the_environment_and_in_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INFERENCE_API_KEYS", " one ,two,,")
    monkeypatch.setenv("INFERENCE_API_KEY_SCOPES", "admin, segment")
    settings = Settings(trusted_proxies="10.0.0.0/8, ::1", preload=["sam2:hiera_tiny"])
    assert settings.api_keys == ("one", "two")
    assert settings.api_key_scopes == ("segment", "admin")
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1")
    assert settings.preload == ("sam2:hiera_tiny",)
    assert Settings(cors_origins=" , ").cors_origins == ()


def test_values_in_code_take_precedence_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INFERENCE_PORT", "1")
    assert Settings(port=2).port == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("INFERENCE_PORT", "http"),
        ("INFERENCE_PORT", "65536"),
        ("INFERENCE_PORT", ""),
        ("INFERENCE_AUTH", "maybe"),
        ("INFERENCE_LOG_LEVEL", "loud"),
        ("INFERENCE_DEVICE", "gpu"),
        ("INFERENCE_DEVICE", "cuda:"),
        ("INFERENCE_DTYPE", "int8"),
        ("INFERENCE_MAX_PROMPTS", "0"),
        ("INFERENCE_MAX_BODY_MB", "1.5"),
        ("INFERENCE_EMBEDDING_CACHE_MB", "-1"),
        ("INFERENCE_FETCH_TIMEOUT", "0"),
        ("INFERENCE_REQUEST_TIMEOUT", "nan"),
        ("INFERENCE_FETCH_NETWORKS", "10.0.0.0/8,elsewhere"),
        ("INFERENCE_FETCH_NETWORKS", "10.0.0.1/8"),
        ("INFERENCE_FETCH_HOSTS", "https://example.com"),
        ("INFERENCE_FETCH_HOSTS", "example.com:443"),
        ("INFERENCE_FETCH_HOSTS", "*example.com"),
        ("INFERENCE_MAX_JSON_DEPTH", "1000"),
        ("INFERENCE_PUBLIC_URL", "masks.example.com"),
        ("INFERENCE_PUBLIC_URL", "https://user@masks.example.com"),
        ("INFERENCE_TRUSTED_PROXIES", "proxy"),
        ("INFERENCE_JOB_LEASE", "0.5"),
        ("INFERENCE_API_KEY_SCOPES", "root"),
        ("INFERENCE_API_KEY_SCOPES", ""),
        ("INFERENCE_CLUSTER_VISUAL_REPLICAS", "0"),
        ("INFERENCE_CLUSTER_VISUAL_REPLICAS", "8-1"),
        ("INFERENCE_CLUSTER_CONCEPT_REPLICAS", "many"),
        ("INFERENCE_CLUSTER_CONCEPT_GPUS", "-1"),
        ("INFERENCE_CLUSTER_VISUAL_GPUS", "1.5"),
    ],
)
def test_an_invalid_value_is_an_error_that_names_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=re.escape(f"{variable}={value}: ")):
        Settings()


def test_all_invalid_values_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_PORT", "http")
    monkeypatch.setenv("INFERENCE_AUTH", "maybe")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == [
        "INFERENCE_PORT",
        "INFERENCE_AUTH",
    ]


def test_default_limits_are_those_of_the_api() -> None:
    settings = Settings()
    assert {name: getattr(settings, name) for name in asdict(Limits())} == asdict(Limits())


def test_the_page_of_settings_has_every_setting() -> None:
    text = SETTINGS_PAGE.read_text()
    assert text == with_tables(text), "run `python -m tests.readme --settings`"
    assert settings_tables() in text
    assert all(f"| `{variable_of(name)}` |" in text for name in NAMES)


def test_settings_are_grouped_in_their_order() -> None:
    assert list(GROUPS) == [name for name in NAMES if name in GROUPS]
    assert NAMES[0] in GROUPS


def test_each_setting_has_a_description_and_is_used() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "inference_server").rglob("*.py"))
    for name in NAMES:
        description = Settings.model_fields[name].description
        assert description, name
        assert description.endswith("."), name
        assert name in asdict(Limits()) or re.search(rf"settings\.{name}\b", sources), name


def test_misspelled_variables_are_reported() -> None:
    assert misspelled(["INFERENCE_SAM3_WEIGHT", "INFERENCE_PORT", "PATH"]) == {
        "INFERENCE_SAM3_WEIGHT": "INFERENCE_SAM3_WEIGHTS"
    }
    assert misspelled(["INFERENCE_Q"]) == {"INFERENCE_Q": None}


def test_keys_and_passwords_are_not_shown() -> None:
    url = "postgresql://user:secret@db/jobs"
    assert "secret" not in repr(Settings(api_keys="secret", database_url=url))
    assert "secret" not in repr(Settings(redis_url="redis://:secret@redis"))
    for name, value in (
        ("database_url", "mysql://u:secret@db/jobs"),
        ("redis_url", "x://:secret@y"),
    ):
        with pytest.raises(SettingsError, match=f"{variable_of(name)}=…: ") as caught:
            Settings.model_validate({name: value})
        assert "secret" not in str(caught.value)


def test_a_url_has_no_trailing_slash() -> None:
    assert Settings(public_url="https://example.com/masks/").public_url.endswith("/masks")


@pytest.mark.parametrize("value", ["crops", "[]", '["a"]', '{"": "demo"}', '{"a b": "demo"}', "1"])
def test_named_models_are_a_json_object(value: str) -> None:
    with pytest.raises(SettingsError, match=r'INFERENCE_SAM3_MODELS=.*{"crops/3": "/models/crops'):
        Settings.model_validate({"sam3_models": value})
