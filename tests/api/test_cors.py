"""Pages of other origins can call every endpoint and read its responses."""

from __future__ import annotations

import pytest

from inference_server.api.app import OPERATIONS
from inference_server.api.headers import HEADERS
from inference_server.api.openapi import Operation
from tests.api.pictures import Picture
from tests.api.rasters import PREDICT
from tests.api.serving import RunningHere

ORIGIN = "https://maps.example"
NAMES = [operation.operation_id for operation in OPERATIONS]


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_preflight(server: RunningHere, operation: Operation) -> None:
    method = operation.method.upper()
    response = server.http.options(
        operation.path,
        headers={
            "origin": ORIGIN,
            "access-control-request-method": method,
            "access-control-request-headers": "authorization, content-type, x-api-key",
        },
    )
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    assert method in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "content-type", "x-api-key"} <= set(allowed)
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_responses_without_a_key_are_readable(server: RunningHere, operation: Operation) -> None:
    response = server.http.request(operation.method, operation.path, headers={"origin": ORIGIN})
    assert (response.status_code == 401) == operation.secured
    assert response.headers["access-control-allow-origin"] == "*"
    exposed = response.headers["access-control-expose-headers"].lower().split(", ")
    assert set(exposed) >= set(HEADERS)


def test_uploads(server: RunningHere, picture: Picture) -> None:
    x, y = picture.one("red circle").click()
    response = server.http.post(
        PREDICT,
        files={"file": ("scene.png", picture.data)},
        data={"point_coords": f"[[{x}, {y}]]", "output_format": "png"},
        headers={"origin": ORIGIN, "x-api-key": "inf_alice-s3cret"},
    )
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.headers["access-control-allow-origin"] == "*"
