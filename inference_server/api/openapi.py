"""The OpenAPI document, generated from the same operations as the routes.

Each route module lists its operations as `Operation`; the application makes routes from them, and
`build_document` makes the document. The rules that keep generated clients working (short operation
ids, each alternative a named component, binary responses as binary strings) are enforced here and
in `schemas/`, and tested with real generators.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from openapi_pydantic import OpenAPI
from openapi_pydantic.util import construct_open_api_with_schema_class
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.headers import HEADERS
from schemas.common import ErrorMessage, ValidationErrorResponse

Method = Literal["get", "post", "put", "patch", "delete"]
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """A response of an operation with one status.

    Attributes:
        description: when this response is sent.
        model: schema of a JSON body. Default: no JSON body.
        raw: other media types of the body, each with its kind, binary or text. Default: none.
        headers: names of response headers, as in `HEADERS`, without those that `headers_of` adds.
            Default: none.
        component: name under which several operations share the response in the document.
            Default: not shared.
        raw_first: whether `raw` precedes JSON in the document: generated clients use the first
            media type that they support. Default: False.
    """

    description: str
    model: type[BaseModel] | None = None
    raw: Mapping[str, Literal["binary", "text"]] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    component: str | None = None
    raw_first: bool = False


@dataclass(frozen=True)
class Operation:
    """An operation of the API: one method of one path.

    Attributes:
        method: the HTTP method, in lower case.
        path: the path, with `{name}` for parameters.
        operation_id: name of the method in generated clients: short, in camelCase.
        summary: one line.
        description: details, in Markdown.
        tags: groups of the operation, as in `TAGS`.
        handler: returns the response to a request.
        responses: responses by HTTP status.
        request: schema of the request body. Default: no body.
        request_type: media type of the request body. Default: JSON.
        form: schema of a multipart form that is accepted as well, whose part `request` is JSON.
            Default: none.
        parameters: parameters in path, query or headers, in OpenAPI's form. Default: none.
        secured: whether an API key is needed. Default: True.
        route: the path for the router, if a parameter may contain slashes. Default: `path`.
    """

    method: Method
    path: str
    operation_id: str
    summary: str
    description: str
    tags: tuple[str, ...]
    handler: Callable[[Request], Awaitable[Response]]
    responses: Mapping[int, Answer]
    request: type[BaseModel] | None = None
    request_type: str = JSON
    form: type[BaseModel] | None = None
    parameters: tuple[Mapping[str, Any], ...] = ()
    secured: bool = True
    route: str = ""


TAGS: Mapping[str, str] = MappingProxyType(
    {
        "Segmentation": "Masks from text, boxes and points, compatible with Roboflow's SAM 3 API.",
        "Rasters": "Masks of GeoTIFFs and other images, compatible with samgeo's API.",
        "Segmind": "Masks as images, compatible with Segmind's API.",
        "Space": "Masks as PNGs in JSON, compatible with the SAM3 Space API.",
        "X-AnyLabeling": "Shapes for the annotation program X-AnyLabeling.",
        "Label Studio": "An ML backend for Label Studio: masks inside its editor.",
        "Jobs": "Requests as jobs: submit now, fetch the result later.",
        "Models": "List, load and unload models, compatible with Roboflow's API.",
        "System": "The server itself: probes, models, metrics.",
    }
)


def common_errors(model: type[BaseModel] = ErrorMessage, suffix: str = "") -> Mapping[int, Answer]:
    """Return the errors of an operation on an image, by status.

    Args:
        model: schema of the error body. Default: `{"message": ...}`.
        suffix: suffix of the components' names in the document. Default: none.
    """

    def error(name: str, description: str, *headers: str, model: Any = model) -> Answer:
        return Answer(description, model, headers=headers, component=name + suffix)

    return MappingProxyType(
        {
            400: error(
                "BadRequest",
                "The image could not be fetched or decoded, a header has several values, or the "
                "body is not valid HTTP.",
            ),
            401: error(
                "Unauthorized",
                "The API key is missing or wrong, has expired or was revoked.",
                "www-authenticate",
            ),
            402: error("OutOfCredits", "The API key has insufficient credits."),
            403: error("Forbidden", "The API key lacks the required scope."),
            404: error(
                "UnknownImage", "No image is cached under this `image_id`, and none was sent."
            ),
            408: error("TooSlow", "The request body did not arrive in time."),
            413: error("TooLarge", "The request body or the image exceeds a limit."),
            415: error(
                "Encoding",
                "The body's `Content-Type` or `Content-Encoding` is not supported; the message "
                "says what to send.",
                "accept-encoding",
            ),
            422: error("Invalid", "The request is invalid.", model=ValidationErrorResponse),
            429: error(
                "Busy",
                "The API key exceeds its rate limit, or the server is at capacity; try again.",
                "retry-after",
            ),
            500: error(
                "Internal", "Internal error; the server's log has details under the request id."
            ),
            503: error(
                "Unavailable",
                "Unavailable: a model's weights are missing, the server is stopping or out of "
                "memory, or a database is unavailable. The message says which.",
                "retry-after",
            ),
            504: error("TimedOut", "The request timed out."),
        }
    )


COMMON_ERRORS = common_errors()
"""Errors of an operation on an image, in Roboflow's format."""

KEY_ERRORS = MappingProxyType({status: COMMON_ERRORS[status] for status in (401, 503)})
"""Errors of an operation that needs an API key."""

SCOPE_ERRORS = MappingProxyType({**KEY_ERRORS, 403: COMMON_ERRORS[403]})
"""Errors of an operation that needs an API key with a certain scope."""

# The sixth way, `api_key` in a JSON body or form, is a field of the request schemas: OpenAPI has no
# security scheme for it.
_SECURITY_SCHEMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "ApiKeyQuery": {
            "type": "apiKey",
            "in": "query",
            "name": "api_key",
            "description": "The key as the query parameter `api_key`.",
        },
        "ApiKeyHeader": {
            "type": "apiKey",
            "in": "header",
            "name": "x-api-key",
            "description": "The key as the header `x-api-key`.",
        },
        "Bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "The key as a bearer token.",
        },
        "Basic": {
            "type": "http",
            "scheme": "basic",
            "description": "The key as the password, with any user name.",
        },
        "TokenHeader": {
            "type": "apiKey",
            "in": "header",
            "name": "token",
            "description": "The key as the header `Token`, which X-AnyLabeling sends.",
        },
    }
)

_DESCRIPTION = """\
Send an image and prompts; get masks.

**Keys.** Send the API key in one of six ways: the query parameter `api_key`, the header
`x-api-key`, a bearer token, the password of HTTP Basic, the header `Token`, or the field `api_key`
of a JSON body or form (in a form, before the file).

**Fields.** Unknown fields are ignored. `null` for an optional field is the same as omitting it.
Coordinates are pixels of the image as sent.
"""


def build_document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """Make an OpenAPI 3.1 document of the operations.

    Args:
        operations: all operations, in the order of the document.
        version: version of the server.

    Returns:
        The document as JSON values. The same operations give the same document.

    Raises:
        ValueError: If two operations share an id, or path and method, or if one names a tag or a
            header that is not defined in this module.
    """
    _check_unique("operation id", (op.operation_id for op in operations))
    _check_unique("method and path", (f"{op.method} {op.path}" for op in operations))
    answers = [answer for op in operations for answer in op.responses.values()]
    models = {op.request for op in operations} | {answer.model for answer in answers}
    models |= {op.form for op in operations}
    schema_classes = [model for model in models if model is not None]
    # Pydantic would rename models that share a name, and leave references dangling.
    _check_unique("schema name", (model.__name__ for model in schema_classes))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    used_tags = {tag for op in operations for tag in op.tags}
    used_headers = {name for answer in answers for name in headers_of(answer)}
    document = OpenAPI.model_validate(
        {
            "openapi": "3.1.1",
            "info": {
                "title": "inference-server",
                "version": version,
                "summary": "Promptable image segmentation with SAM 1, SAM 2 and SAM 3",
                "description": _DESCRIPTION,
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/"}],
            "tags": [
                {"name": name, "description": text}
                for name, text in TAGS.items()
                if name in used_tags
            ],
            "paths": paths,
            "components": {
                "responses": _shared_answers(answers),
                "headers": {k: dict(v) for k, v in HEADERS.items() if k in used_headers},
                "securitySchemes": {k: dict(v) for k, v in _SECURITY_SCHEMES.items()},
            },
        }
    )
    document = construct_open_api_with_schema_class(
        document, schema_classes, scan_for_pydantic_schema_reference=False
    )
    written = document.model_dump(mode="json", by_alias=True, exclude_unset=True)
    schemas = written["components"].get("schemas", {})
    written["components"]["schemas"] = dict(sorted(schemas.items()))
    return written


def headers_of(answer: Answer) -> tuple[str, ...]:
    """Return the names of a response's headers, with those that middleware adds to all responses.

    Args:
        answer: the response.
    """
    return (*answer.headers, "x-request-id", *(("x-content-type-options",) if answer.raw else ()))


def _check_unique(noun: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"duplicate {noun}: {name}")
        seen.add(name)


def _check_known(noun: str, names: Iterable[str], known: Iterable[str]) -> None:
    if unknown := set(names) - set(known):
        raise ValueError(f"undefined {noun}: {', '.join(sorted(unknown))}")


def _operation(operation: Operation) -> dict[str, Any]:
    _check_known("tag", operation.tags, TAGS)
    written: dict[str, Any] = {
        "tags": list(operation.tags),
        "summary": operation.summary,
        "description": operation.description,
        "operationId": operation.operation_id,
        "responses": {
            str(status): _reference("responses", answer.component)
            if answer.component
            else _response(answer)
            for status, answer in sorted(operation.responses.items())
        },
        # An empty list means that no key is needed; otherwise, any one entry is sufficient.
        "security": [{name: []} for name in _SECURITY_SCHEMES] if operation.secured else [],
    }
    if operation.parameters:
        written["parameters"] = [dict(parameter) for parameter in operation.parameters]
    if operation.request is not None:
        schema = _reference("schemas", operation.request.__name__)
        written["requestBody"] = {
            "required": True,
            "content": {operation.request_type: {"schema": schema}},
        }
    if operation.form is not None:
        written["requestBody"]["content"]["multipart/form-data"] = {
            "schema": _reference("schemas", operation.form.__name__),
            "encoding": {"request": {"contentType": JSON}},
        }
    return written


def _shared_answers(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    shared: dict[str, Answer] = {}
    for answer in answers:
        if answer.component and shared.setdefault(answer.component, answer) != answer:
            raise ValueError(f"two different responses share the name {answer.component}")
    return {name: _response(shared[name]) for name in sorted(shared)}


def _response(answer: Answer) -> dict[str, Any]:
    headers = headers_of(answer)
    _check_known("header", headers, HEADERS)
    content: dict[str, dict[str, Any]] = {}
    if answer.model is not None:
        content[JSON] = {"schema": _reference("schemas", answer.model.__name__)}
    raw: dict[str, dict[str, Any]] = {}
    for media_type, kind in answer.raw.items():
        binary = {"format": "binary"} if kind == "binary" else {}
        raw[media_type] = {"schema": {"type": "string", **binary}}
    content = raw | content if answer.raw_first else content | raw
    written: dict[str, Any] = {"description": answer.description}
    written["headers"] = {name: _reference("headers", name) for name in headers}
    if content:
        written["content"] = content
    return written


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
