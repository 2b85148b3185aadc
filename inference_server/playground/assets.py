"""The files of the pages: read, compressed and tagged once per process."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

import cv2

from inference_server.demo import SAMPLE
from inference_server.demo.scenes import Scene, make_scene

_SWAGGER_FILES = (
    *("swagger-ui.css", "swagger-ui-bundle.js"),
    *("favicon-16x16.png", "favicon-32x32.png"),
)
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
_TEXTS = ("text/", "image/svg+xml")
_JPEG_QUALITY = 92
_WIDE, _UPRIGHT = (640, 480), (480, 640)

SCENES: Mapping[str, Callable[[], Scene]] = MappingProxyType(
    {
        f"scene-{seed}.jpg": partial(make_scene, seed, size, count=(6, 9))
        for seed, size in ((35, _WIDE), (17, _WIDE), (8, _WIDE), (13, _UPRIGHT))
    }
)
"""Generators of the sample images, by file name.

The demo weights segment these scenes correctly; the README gives their accuracy in general.
"""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, ready to be sent.

    Attributes:
        content: The bytes of the file.
        zipped: The same bytes compressed with gzip; None for types that do not compress.
        media_type: Media type, with charset for text.
        etag: Weak ETag, shared by both encodings.
    """

    content: bytes
    zipped: bytes | None
    media_type: str
    etag: str


def _swagger(name: str) -> bytes:
    """Read a file of Swagger UI from the package `swagger-ui-py`."""
    # Located without importing it: only its static files are needed.
    spec = importlib.util.find_spec("swagger_ui")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("swagger-ui-py is not installed; install the server's requirements")
    return (Path(spec.origin).parent / "static" / name).read_bytes()


def _jpeg(scene: Callable[[], Scene]) -> bytes:
    """Encode a generated scene as JPEG."""
    pixels = cv2.cvtColor(scene().image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise RuntimeError("OpenCV failed to encode a JPEG")
    return data.tobytes()


def _sources() -> dict[str, Callable[[], bytes]]:
    static: Traversable = files(__package__) / "static"
    return {
        **{file.name: file.read_bytes for file in static.iterdir() if file.is_file()},
        **{name: partial(_swagger, name) for name in _SWAGGER_FILES},
        **{name: partial(_jpeg, scene) for name, scene in SCENES.items()},
        SAMPLE.name: SAMPLE.read_bytes,
    }


_SOURCES = _sources()

NAMES = frozenset(_SOURCES)
"""Names of all files. A name from a request is looked up here and never used as a path."""


@cache
def load(name: str) -> Asset:
    """Return a file; call it in a worker thread, because the first call reads or generates it.

    Args:
        name: One of `NAMES`.

    Raises:
        KeyError: If the name is unknown.
    """
    content = _SOURCES[name]()
    suffix = Path(name).suffix
    kind = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    is_text = kind.startswith(_TEXTS)
    return Asset(
        content,
        gzip.compress(content) if is_text else None,
        f"{kind}; charset=utf-8" if is_text else kind,
        f'W/"{hashlib.sha256(content).hexdigest()[:32]}"',
    )
