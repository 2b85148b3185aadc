"""The built OpenAPI document is valid, matches the wire types and suits generators.

`tests/clients/` generates clients from the committed document.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.headers import RESULT_HEADERS
from inference_server.api.openapi import COMMON_ERRORS, Answer, Operation, build_document
from schemas.roboflow import (
    EmbeddingRequest,
    EmbeddingResponse,
    Sam2SegmentationRequest,
    Sam2SegmentationResponse,
    Sam3SegmentationRequest,
    Sam3SegmentationResponse,
)
from schemas.system import Health, ModelsResponse, ServerInfo

ROOT = Path(__file__).parents[2]


async def nothing(request: Request) -> Response:
    return Response()


CONCEPT = Operation(
    method="post",
    path="/sam3/concept_segment",
    operation_id="conceptSegment",
    summary="Find every instance of a concept",
    description="Texts and exemplar boxes in, masks out.",
    tags=("Segmentation",),
    handler=nothing,
    request=Sam3SegmentationRequest,
    responses={
        200: Answer("Masks.", Sam3SegmentationResponse, headers=RESULT_HEADERS),
        **COMMON_ERRORS,
    },
)
VISUAL = replace(
    CONCEPT,
    path="/sam3/visual_segment",
    operation_id="visualSegment",
    request=Sam2SegmentationRequest,
    responses={
        200: Answer(
            "Masks.",
            Sam2SegmentationResponse,
            raw={"application/octet-stream": "binary"},
            headers=RESULT_HEADERS,
        ),
        **COMMON_ERRORS,
    },
)
EMBED = replace(
    CONCEPT,
    path="/sam3/embed_image",
    operation_id="embedImage",
    request=EmbeddingRequest,
    responses={200: Answer("Encoded.", EmbeddingResponse), **COMMON_ERRORS},
)
INFO = Operation(
    method="get",
    path="/",
    operation_id="serverInfo",
    summary="What this server is",
    description="Name, version and links.",
    tags=("System",),
    handler=nothing,
    responses={200: Answer("The server.", ServerInfo, raw={"text/html": "text"})},
    secured=False,
)
READY = replace(
    INFO,
    path="/readyz",
    operation_id="ready",
    responses={200: Answer("Ready.", Health), 503: Answer("Not ready.", Health)},
)
MODELS = replace(
    INFO,
    path="/models",
    operation_id="listModels",
    responses={200: Answer("The models.", ModelsResponse), 401: COMMON_ERRORS[401]},
    secured=True,
)
METRICS = replace(
    INFO,
    path="/metrics",
    operation_id="metrics",
    responses={200: Answer("For Prometheus.", raw={"text/plain": "text"})},
)
FORGET = replace(
    MODELS,
    method="delete",
    operation_id="forgetImage",
    path="/images/{image_id}",
    parameters=(
        {"name": "image_id", "in": "path", "required": True, "schema": {"type": "string"}},
    ),
    responses={204: Answer("Forgotten.")},
)
OPERATIONS = [CONCEPT, VISUAL, EMBED, INFO, READY, MODELS, METRICS, FORGET]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return build_document(OPERATIONS, "1.2.3")


def schemas(node: Any) -> list[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(node, dict):
        return [node, *(inner for value in node.values() for inner in schemas(value))]
    if isinstance(node, list):
        return [inner for value in node for inner in schemas(value)]
    return []


def validator(document: dict[str, Any], component: str) -> OAS31Validator:
    return OAS31Validator({**document, "$ref": f"#/components/schemas/{component}"})


class TestDocument:
    def test_is_valid_openapi_3_1(self, document: dict[str, Any]) -> None:
        assert document["openapi"].startswith("3.1")
        assert document["info"]["version"] == "1.2.3"
        validate(document)

    def test_is_the_same_for_the_same_operations(self, document: dict[str, Any]) -> None:
        # Another process has another hash seed, hence another order of sets.
        code = (
            "import json, tests.api.test_openapi as t;"
            "print(json.dumps(t.build_document(t.OPERATIONS, '1.2.3')))"
        )
        other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
        assert other.stdout.decode().strip() == json.dumps(document), other.stderr.decode()

    def test_has_no_dangling_references(self, document: dict[str, Any]) -> None:
        for node in schemas(document):
            if "$ref" in node:
                found: Any = document
                for part in node["$ref"].removeprefix("#/").split("/"):
                    found = found[part]

    def test_alternatives_are_named_components(self, document: dict[str, Any]) -> None:
        # A generator would name an inline union `BoxesInner` or similar.
        named = document["components"]["schemas"].values()
        for node in schemas(document):
            kinds = [*node.get("anyOf", []), *node.get("oneOf", [])]
            assert not kinds or any(node is component for component in named), node
            for kind in kinds:
                assert "$ref" in kind or kind == {"type": "null"}, node

    def test_every_field_is_described(self, document: dict[str, Any]) -> None:
        for name, component in document["components"]["schemas"].items():
            assert component.get("description"), name
            for field, schema in component.get("properties", {}).items():
                assert schema.get("description"), f"{name}.{field}"

    def test_examples_match_their_schemas(self, document: dict[str, Any]) -> None:
        count = 0
        for name, component in document["components"]["schemas"].items():
            for example in component.get("examples", []):
                validator(document, name).validate(example)
                count += 1
        assert count >= 20

    def test_both_boxes_are_components_of_their_own(self, document: dict[str, Any]) -> None:
        components = document["components"]["schemas"]
        assert {"TopLeftBox", "CornerBox", "CenterBox"} <= components.keys()
        assert "top-left" in components["TopLeftBox"]["description"]
        assert "centre" in components["CenterBox"]["description"]

    @pytest.mark.parametrize(
        "prompts",
        [
            None,
            [],
            [{}],
            {},
            {"prompts": [{"points": [{"x": 1, "y": 2, "positive": False}]}]},
            [{"box": {"x": 1, "y": 2, "width": 3, "height": 4}}],
            {"box": {"x": 1, "y": 2, "width": 3, "height": 4}},
        ],
    )
    def test_every_form_of_visual_prompts_matches(
        self, document: dict[str, Any], prompts: Any
    ) -> None:
        request = {"image_id": "dog-1", "prompts": prompts}
        Sam2SegmentationRequest.model_validate(request)
        validator(document, "Sam2SegmentationRequest").validate(request)

    @pytest.mark.parametrize(
        "prompt",
        [
            {"boxes": [{"x": 1, "y": 2, "width": 0, "height": 4}]},
            {"boxes": [{"x": 1, "y": 2}]},
            {"boxes": [[1, 2, 3, 4]]},
            {"text": "dog", "box_labels": [2]},
            {"text": "dog", "output_prob_thresh": 1.5},
            {"type": "points", "text": "dog"},
        ],
    )
    def test_invalid_prompts_do_not_match(self, document: dict[str, Any], prompt: Any) -> None:
        request = {"image_id": "dog-1", "prompts": [prompt]}
        assert not validator(document, "Sam3SegmentationRequest").is_valid(request)

    def test_all_ways_to_send_a_key_are_described(self, document: dict[str, Any]) -> None:
        schemes = document["components"]["securitySchemes"]
        ways = {
            (s["type"], s.get("in"), s.get("name") or s.get("scheme")) for s in schemes.values()
        }
        assert ways == {
            ("apiKey", "query", "api_key"),
            ("apiKey", "header", "x-api-key"),
            ("apiKey", "header", "token"),
            ("http", None, "bearer"),
            ("http", None, "basic"),
        }
        for request in ("Sam3SegmentationRequest", "Sam2SegmentationRequest", "EmbeddingRequest"):
            assert "api_key" in document["components"]["schemas"][request]["properties"]

    def test_any_security_scheme_suffices(self, document: dict[str, Any]) -> None:
        schemes = document["components"]["securitySchemes"]
        assert document["paths"][CONCEPT.path]["post"]["security"] == [{s: []} for s in schemes]
        assert document["paths"][INFO.path]["get"]["security"] == []

    def test_errors_and_headers_are_documented(self, document: dict[str, Any]) -> None:
        responses = document["paths"][CONCEPT.path]["post"]["responses"]
        assert set(responses) >= {"400", "401", "404", "413", "422", "429", "503", "504"}
        assert set(responses["200"]["headers"]) == {*RESULT_HEADERS, "x-request-id"}
        shared = document["components"]["responses"]
        busy = shared[responses["429"]["$ref"].rsplit("/", 1)[1]]
        assert "retry-after" in busy["headers"]
        invalid = shared[responses["422"]["$ref"].rsplit("/", 1)[1]]
        schema = invalid["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ValidationErrorResponse"}

    def test_binary_answers_are_binary_strings(self, document: dict[str, Any]) -> None:
        content = document["paths"][VISUAL.path]["post"]["responses"]["200"]["content"]
        assert list(content) == ["application/json", "application/octet-stream"]
        binary = content["application/octet-stream"]["schema"]
        assert binary == {"type": "string", "format": "binary"}

    def test_the_first_media_type_is_what_clients_read(self) -> None:
        answer = replace(VISUAL.responses[200], raw_first=True)
        written = build_document([replace(VISUAL, responses={200: answer})], "1.2.3")
        content = written["paths"][VISUAL.path]["post"]["responses"]["200"]["content"]
        assert list(content) == ["application/octet-stream", "application/json"]

    def test_unused_components_are_omitted(self, document: dict[str, Any]) -> None:
        small = build_document([METRICS], "1.2.3")
        assert [tag["name"] for tag in small["tags"]] == ["System"]
        assert small["components"]["schemas"] == {}
        assert set(small["components"]["headers"]) == {"x-request-id", "x-content-type-options"}
        validate(small)


class TestInvalidOperations:
    def test_duplicate_operation_ids(self) -> None:
        with pytest.raises(ValueError, match="duplicate operation id: ready"):
            build_document([READY, replace(METRICS, operation_id="ready")], "1")

    def test_duplicate_paths(self) -> None:
        with pytest.raises(ValueError, match="duplicate method and path: get /"):
            build_document([INFO, replace(INFO, operation_id="other")], "1")

    def test_duplicate_schema_names(self) -> None:
        other = type("Health", (ServerInfo,), {})
        ready = replace(METRICS, responses={200: Answer("Other.", other)})
        with pytest.raises(ValueError, match="duplicate schema name: Health"):
            build_document([READY, ready], "1")

    def test_duplicate_response_names(self) -> None:
        answers = [Answer("One.", component="Same"), Answer("Two.", component="Same")]
        ready = replace(READY, responses=dict(enumerate(answers, 500)))
        with pytest.raises(ValueError, match="share the name Same"):
            build_document([ready], "1")

    def test_unknown_tag_and_header(self) -> None:
        with pytest.raises(ValueError, match="undefined tag: Other"):
            build_document([replace(INFO, tags=("Other",))], "1")
        with pytest.raises(ValueError, match="undefined header: x-other"):
            build_document([replace(INFO, responses={200: Answer("", headers=("x-other",))})], "1")
