"""The pages for browsers: the playground, the API reference, and their static files.

Not served by `starlette.staticfiles`: some files are generated or come from another package, each
page has its own Content-Security-Policy, and responses are compressed once, with one ETag for both
encodings.
"""

from __future__ import annotations

import asyncio
from types import MappingProxyType

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from inference_server.api.responses import accepts_gzip
from inference_server.playground import NAMES, load

_NOTHING = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; "
)
_POLICIES = MappingProxyType(
    {
        "index.html": _NOTHING
        + "style-src 'self'; img-src 'self' blob:; require-trusted-types-for 'script'; "
        "trusted-types 'none'",
        # Swagger UI sets inline styles and uses data URLs for its icons.
        "docs.html": _NOTHING + "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:",
    }
)
"""Content-Security-Policy of each page: nothing is loaded from other hosts."""

_HEADERS = MappingProxyType(
    {
        "referrer-policy": "no-referrer",
        # File names stay the same across upgrades, so browsers must revalidate by ETag.
        "cache-control": "no-cache",
    }
)


def wants_page(request: Request) -> bool:
    """Whether the client accepts `text/html` explicitly, and prefers it to JSON or is indifferent.

    Browsers do; `curl`, `requests` and generated clients accept anything or JSON.
    """
    qualities: dict[str, float] = {}
    for part in ",".join(request.headers.getlist("accept")).lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            qualities[name] = float(quality)
        except ValueError:
            qualities[name] = 0.0
    html = qualities.get("text/html", 0.0)
    return html > 0 and html >= qualities.get("application/json", 0.0)


async def file(request: Request, name: str) -> Response:
    """Return a static file, or 304 if the browser's copy is current.

    Args:
        request: the request.
        name: name of the file.

    Raises:
        HTTPException: If there is no such file (404).
    """
    if name not in NAMES:
        raise HTTPException(404)
    asset = await asyncio.to_thread(load, name)
    headers = {**_HEADERS, "etag": asset.etag, "vary": "accept, accept-encoding"}
    headers["content-security-policy"] = _POLICIES.get(name, "default-src 'none'; sandbox")
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = asset.content
    if asset.zipped is not None and accepts_gzip(request.headers.get("accept-encoding", "")):
        content = asset.zipped
        headers["content-encoding"] = "gzip"
    return Response(content, headers={**headers, "content-type": asset.media_type})


async def playground(request: Request) -> Response:
    """Return the playground page."""
    return await file(request, "index.html")


async def _asset(request: Request) -> Response:
    return await file(request, request.path_params["name"])


async def _reference(request: Request) -> Response:
    return await file(request, "docs.html")


ROUTES = (
    Route("/docs", _reference, name="apiReference"),
    Route("/playground/{name}", _asset, name="playgroundFile"),
)
"""Routes without authentication that are not part of the OpenAPI document."""
