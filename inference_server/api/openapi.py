"""The OpenAPI document, written from the same operations that the routes are made of.

A route module says what it serves as a list of `Operation`; the application makes its routes of
them, and `build_document` their description. The rules that keep generated clients working (short
operation ids, every alternative a named component, binary answers as binary strings) are
kept here and in `schemas/`, and tested with a real generator.
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

from schemas.common import ErrorMessage, ValidationErrorResponse

Method = Literal["get", "post", "put", "patch", "delete"]
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """What an operation may answer with one status.

    Attributes:
        description: when this is the answer.
        model: the type of a JSON body.
        raw: the other media types of the body, and whether each is binary or text.
        raw_first: these come before JSON in the document: generated clients read the first media
            type that they know.
        headers: names of response headers, out of `HEADERS`.
        component: a name under which several operations share the answer in the document.
    """

    description: str
    model: type[BaseModel] | None = None
    raw: Mapping[str, Literal["binary", "text"]] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    component: str | None = None
    raw_first: bool = False


@dataclass(frozen=True)
class Operation:
    """One thing that the server does for a client.

    Attributes:
        method: the HTTP method, in lower case.
        path: the path, with `{name}` for parameters.
        operation_id: what generated clients call it: short, in camelCase.
        summary: one line.
        description: the whole story, in Markdown.
        tags: groups that it belongs to, out of `TAGS`.
        handler: the endpoint that answers.
        responses: the answers, by status.
        request: the type of the request's body.
        request_type: the media type of the request's body.
        parameters: parameters in the path, the query or the headers, as OpenAPI writes them.
        secured: whether a key is needed.
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
    parameters: tuple[Mapping[str, Any], ...] = ()
    secured: bool = True


TAGS: Mapping[str, str] = MappingProxyType(
    {
        "Segmentation": "Masks from texts, boxes and clicks, in the form of Roboflow's SAM 3 API.",
        "Rasters": "Masks of GeoTIFFs and other images, in the form of samgeo's API.",
        "Segmind": "Masks as images, in the form of Segmind's API.",
        "Space": "Masks as PNGs in JSON, in the form of the SAM 3 Space's API.",
        "Jobs": "Any request as a job: submit it now, fetch its result later.",
        "System": "The server itself: what it is, whether it is well, which models it has.",
    }
)

HEADERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "x-model": {
            "description": "The checkpoint that answered; `demo` in it means the demo weights.",
            "schema": {"type": "string"},
        },
        "x-embedding-cache": {
            "description": "Whether the image's embedding was already there.",
            "schema": {"type": "string", "enum": ["hit", "miss"]},
        },
        "x-image-mismatch": {
            "description": "The image that was sent is not the one cached under its `image_id`, "
            "which answered.",
            "schema": {"type": "string", "enum": ["true"]},
        },
        "x-credits-remaining": {
            "description": "What the API key has left, if it is one that pays in credits.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "server-timing": {
            "description": "Milliseconds spent in each step, as `name;dur=1.2, …`.",
            "schema": {"type": "string"},
        },
        "x-request-id": {
            "description": "The id of this request in the server's log.",
            "schema": {"type": "string"},
        },
        "retry-after": {
            "description": "Seconds after which trying again makes sense.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "www-authenticate": {
            "description": "How to authenticate.",
            "schema": {"type": "string"},
        },
    }
)
"""The response headers that operations may name, as OpenAPI writes them."""

RESULT_HEADERS = (
    "x-model",
    "x-embedding-cache",
    "x-image-mismatch",
    "x-credits-remaining",
    "server-timing",
    "x-request-id",
)
"""What accompanies every answer about an image."""


def common_errors(model: type[BaseModel] = ErrorMessage, suffix: str = "") -> Mapping[int, Answer]:
    """The errors of an operation that looks at an image.

    Args:
        model: how the contract words them.
        suffix: of their names in the document.
    """

    def error(name: str, description: str, *headers: str, model: Any = model) -> Answer:
        headers = (*headers, "x-request-id")
        return Answer(description, model, headers=headers, component=name + suffix)

    return MappingProxyType(
        {
            400: error("BadRequest", "The image could not be fetched or decoded."),
            401: error(
                "Unauthorized",
                "The API key is missing or wrong, has expired or was revoked.",
                "www-authenticate",
            ),
            402: error("OutOfCredits", "The API key has not enough credits left for this."),
            403: error("Forbidden", "The API key has not the scope that this needs."),
            404: error("UnknownImage", "No image is cached under this id, and none was sent."),
            408: error("TooSlow", "The body took too long to arrive."),
            413: error("TooLarge", "The body or the image is over a limit."),
            422: error("Invalid", "The request is not valid.", model=ValidationErrorResponse),
            429: error(
                "Busy",
                "The API key asks too often, or too many requests are waiting: try again.",
                "retry-after",
            ),
            500: error("Internal", "Something failed in the server; its log has the request's id."),
            503: error(
                "Unavailable",
                "Not now: a model's weights are missing, the server is stopping or has no memory "
                "left, or a database cannot be used. The message says which.",
                "retry-after",
            ),
            504: error("TimedOut", "The request took longer than the server's time limit."),
        }
    )


COMMON_ERRORS = common_errors()
"""The errors of every operation that looks at an image, in Roboflow's words."""

KEY_ERRORS = MappingProxyType({status: COMMON_ERRORS[status] for status in (401, 503)})
"""The errors of an operation that needs any key."""

SCOPE_ERRORS = MappingProxyType({**KEY_ERRORS, 403: COMMON_ERRORS[403]})
"""The errors of an operation that needs a key of one scope."""

# The fifth way, `api_key` in a JSON body or a form, is a field of the requests: OpenAPI has no
# scheme for it.
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
    }
)

_DESCRIPTION = """\
Send an image and prompts, get masks.

**Keys.** One of five ways is enough: the query parameter `api_key`, the header `x-api-key`, a
bearer token, the password of HTTP Basic, or the field `api_key` of a JSON body or, before the file,
of a form.

**Fields.** Unknown fields are ignored. An optional field may also be null, which means the same as
leaving it out. Coordinates are pixels of the image as it was sent.
"""


def build_document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """Describes the operations as an OpenAPI 3.1 document.

    Args:
        operations: what the server does, in the order of the document.
        version: the version of the server.

    Returns:
        The document, ready for JSON. The same operations give the same document.

    Raises:
        ValueError: when two operations share an id, or a path and method, or when one names a tag
            or a header that is not described here.
    """
    _check_unique("operation id", (op.operation_id for op in operations))
    _check_unique("method and path", (f"{op.method} {op.path}" for op in operations))
    answers = [answer for op in operations for answer in op.responses.values()]
    models = {op.request for op in operations} | {answer.model for answer in answers}
    schema_classes = [model for model in models if model is not None]
    # Pydantic would tell models of one name apart by longer names, and leave references dangling.
    _check_unique("schema name", (model.__name__ for model in schema_classes))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    used_tags = {tag for op in operations for tag in op.tags}
    used_headers = {name for answer in answers for name in answer.headers}
    document = OpenAPI.model_validate(
        {
            "openapi": "3.1.1",
            "info": {
                "title": "inference-server",
                "version": version,
                "summary": "Promptable image segmentation with SAM 2 and SAM 3",
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


def _check_unique(noun: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two have the same {noun}: {name}")
        seen.add(name)


def _check_known(noun: str, names: Iterable[str], known: Iterable[str]) -> None:
    if unknown := set(names) - set(known):
        raise ValueError(f"this {noun} is described nowhere: {', '.join(sorted(unknown))}")


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
        # An empty list says that no key is needed; each entry of a full one is enough by itself.
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
    return written


def _shared_answers(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    shared: dict[str, Answer] = {}
    for answer in answers:
        if answer.component and shared.setdefault(answer.component, answer) != answer:
            raise ValueError(f"two different answers are called {answer.component}")
    return {name: _response(shared[name]) for name in sorted(shared)}


def _response(answer: Answer) -> dict[str, Any]:
    _check_known("header", answer.headers, HEADERS)
    content: dict[str, dict[str, Any]] = {}
    if answer.model is not None:
        content[JSON] = {"schema": _reference("schemas", answer.model.__name__)}
    raw: dict[str, dict[str, Any]] = {}
    for media_type, kind in answer.raw.items():
        binary = {"format": "binary"} if kind == "binary" else {}
        raw[media_type] = {"schema": {"type": "string", **binary}}
    content = raw | content if answer.raw_first else content | raw
    written: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        written["headers"] = {name: _reference("headers", name) for name in answer.headers}
    if content:
        written["content"] = content
    return written


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
