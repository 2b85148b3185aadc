"""Schemathesis checks every operation of a running server against the OpenAPI document.

It generates valid and invalid requests from the schemas. Each response must have a documented
status, headers and body, and must not be a server error.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import Phase, settings
from schemathesis.specs.openapi import checks

from tests.api.pictures import noise
from tests.api.serving import ALICE, Running, serving
from tests.fuzz import fuzzed

FILE = Path(__file__).parents[2] / "openapi" / "openapi.json"
PICTURE = noise(900, (8, 8))["value"]
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]

schema = schemathesis.openapi.from_dict(json.loads(FILE.read_bytes()))


def _is_even(value: Any) -> bool:
    return isinstance(value, str | bytes) and len(value) % 2 == 0


def _is_example_url(value: Any) -> bool:
    """Whether a value is the URL of an image in one of the document's examples."""
    return isinstance(value, str) and value.startswith("https://")


def with_valid_images(node: Any) -> Any:
    """Return a body with a valid image in half of its image fields, and with few wrong keys.

    Generated text is never an image or a key, so without this no request would be valid.
    """
    if isinstance(node, list):
        return [with_valid_images(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: with_valid_images(value) for name, value in node.items()}
    if _is_even(node.get("api_key")):
        del node["api_key"]
    if _is_example_url(node.get("value")) or (
        node.get("type") == "base64" and _is_even(node.get("value"))
    ):
        node = {**node, "type": "base64", "value": PICTURE}
    if _is_even(node.get("image")) or _is_example_url(node.get("image")):
        node["image"] = PICTURE
    if _is_even(node.get("file")):
        node["file"] = base64.b64decode(PICTURE)
    if isinstance(node.get("data"), list) and node["data"] and _is_even(node["data"][0]):
        node["data"][0] = PICTURE
    if {"image", "file"} & node.keys() and node.get("points_per_side", 32) in range(3, 129):
        node["points_per_side"] = 2  # a grid of 128 x 128 clicks is valid, but slow
    return node


@pytest.fixture(scope="module")
def patient() -> Iterator[Running]:
    """A server that accepts jobs but runs none; jobs have their own tests."""
    with serving(
        job_workers=0, job_queue_size=100_000, job_queue_per_key=100_000, fetch_timeout=1
    ) as running:
        yield running


@schema.parametrize()
@settings(fuzzed(8), phases=[Phase.explicit, Phase.generate])
def test_every_operation(case: schemathesis.Case[Any], patient: Running) -> None:
    if isinstance(case.body, dict):
        case.body = with_valid_images(case.body)
    response = case.call(base_url=patient.url, headers={"x-api-key": ALICE}, timeout=120)
    case.validate_response(response, checks=CHECKS)
    assert response.status_code < 500 or _is_missing_sam(case), response.text


def _is_missing_sam(case: schemathesis.Case[Any]) -> bool:
    """Whether a form requests the first SAM, which is not supported and gets 503."""
    return isinstance(case.body, dict) and case.body.get("model_version") == "sam"
