"""Building the application without loading models."""

from __future__ import annotations

import subprocess
import sys

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

import inference_server.api.app
from inference_server.api.app import OPERATIONS, build_state, create_app, in_this_process
from inference_server.engines.registry import ModelRegistry
from inference_server.errors import ModelUnavailableError
from tests.api.serving import settings


def test_every_operation_has_a_route_and_every_route_an_operation() -> None:
    routes = {
        (method, route.path)
        for route in create_app(settings()).routes
        if isinstance(route, Route)
        for method in (route.methods or ())
        if method != "HEAD"
    }
    served = {(op.method.upper(), op.route or op.path) for op in OPERATIONS}
    pages = {("GET", path) for path in ("/openapi.json", "/docs", "/playground/{name}")}
    assert routes == served | pages


def test_post_operations() -> None:
    assert {op.path for op in OPERATIONS if op.method == "post"} == {
        *("/sam3/concept_segment", "/sam3/visual_segment", "/sam3/embed_image"),
        *("/sam2/segment_image", "/sam2/embed_image"),
        *("/segment/automatic", "/segment/predict", "/segment/text"),
        *("/v1/sam3-image", "/v1/sam-v2-image"),
        *("/api/sam2_compatible", "/api/predict"),
        *("/v2/sam3-image", "/v2/sam-v2-image"),
        *("/v2/sam3/concept_segment", "/v2/sam3/visual_segment"),
        "/x-anylabeling/v1/predict",
        *("/label-studio/setup", "/label-studio/predict", "/label-studio/webhook"),
        *("/model/registry", "/model/add", "/model/remove", "/model/clear"),
    }


def test_public_operations() -> None:
    assert {op.path for op in OPERATIONS if not op.secured} == {
        *("/", "/health", "/info", "/livez", "/readyz"),
        "/v2/requests/{request_id}/files/{name}",
        "/label-studio/webhook",  # Label Studio sends no credentials, and nothing is done
    }


def test_the_module_makes_an_application_only_when_asked() -> None:
    assert "app" not in vars(inference_server.api.app)
    assert isinstance(inference_server.api.app.app, Starlette)
    with pytest.raises(AttributeError):
        _ = inference_server.api.app.application


def test_making_an_application_loads_nothing() -> None:
    """Commands such as `inference-server openapi` work without weights and devices."""
    changes = {"sam2_weights": "/no/such/weights", "sam3_weights": "/no/such", "device": "cuda:99"}
    assert create_app(settings(**changes)).routes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sam2_weights", "/no/such/weights"),
        ("sam3_weights", "/no/such/weights"),
        ("sam3_weights", "sam3"),
        ("device", "cuda:99"),
        ("preload", "sam2:huge"),
    ],
)
def test_an_invalid_setting_is_reported_with_its_remedy(name: str, value: str) -> None:
    with pytest.raises(ModelUnavailableError) as caught:
        build_state(settings(**{name: value}), in_this_process(ModelRegistry))
    assert f"INFERENCE_{name.upper()}={value}" in caught.value.message
    remedy = "Preload any of" if name == "preload" else "Set it to"
    assert remedy in caught.value.message


def test_schemas_do_not_import_the_server() -> None:
    """Importing the wire types loads neither the server nor torch."""
    code = (
        "import sys, schemas.roboflow, schemas.system;"
        "print([m for m in ('torch', 'inference_server', 'starlette') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.strip() == "[]", ended.stderr
