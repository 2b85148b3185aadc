"""A server with keys in its database, and a request to each endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_server.auth import AuthService, AuthTiming, KeyRepository, StoredKey
from inference_server.database import Database
from tests.api import rasters
from tests.api.pictures import Picture
from tests.api.serving import RunningHere, serving, until

MODELS = "/models"
COSTS = {"cost_concept": 2, "cost_visual": 3, "cost_automatic": 5, "cost_embed": 1}


@dataclass
class Keyed:
    """A server, and the keys in its database.

    Attributes:
        server: the running server.
        store: its keys, accessed as the command line does.
    """

    server: RunningHere
    store: KeyRepository

    def create(self, name: str = "test", **options: Any) -> tuple[str, StoredKey]:
        """Create a key, and wait until the server accepts it."""
        key, made = self.store.create(name, **options)
        self.until_known(key)
        return key, made

    def until_known(self, key: str, status: int = 200) -> None:
        """Wait until the server answers a request with this key with a status."""
        until(lambda: self.server.get(MODELS, key=key).status_code == status)

    def credits_left(self, made: StoredKey) -> int | None:
        """Return a key's remaining credits."""
        (found,) = (key for key in self.store.all() if key.id == made.id)
        return found.credits

    def used(self, made: StoredKey) -> tuple[int, int, int]:
        """Return a key's usage: (requests, failures, credits)."""
        found = self.store.usage("2000-01-01", made.id)
        return (
            sum(each.requests for each in found),
            sum(each.failures for each in found),
            sum(each.credits for each in found),
        )


def fast_polling(patch: pytest.MonkeyPatch) -> None:
    """Let servers that start from now on load changed keys every 50 ms."""
    fast = partial(AuthService, timing=AuthTiming(poll=0.05))
    patch.setattr("inference_server.api.app.AuthService", fast)


@contextmanager
def keyed(directory: Path, url: str = "", **changes: Any) -> Iterator[Keyed]:
    """Run a server whose keys are in a directory's SQLite file, or in PostgreSQL."""
    database = Database(directory, url)
    try:
        with serving(data_dir=str(directory), database_url=url, **{**COSTS, **changes}) as server:
            yield Keyed(server, KeyRepository(database))
    finally:
        database.close()


Send = Callable[[RunningHere, Picture, str | None], httpx.Response]


def _json(path: str, **body: Any) -> Send:
    def send(server: RunningHere, picture: Picture, key: str | None) -> httpx.Response:
        asked = {name: value(picture) if callable(value) else value for name, value in body.items()}
        return server.post(path, asked, key=key)

    return send


def _form(path: str, **fields: Any) -> Send:
    def send(server: RunningHere, picture: Picture, key: str | None) -> httpx.Response:
        return rasters.post(server, path, picture.data, key=key, **fields)

    return send


def _sent(picture: Picture) -> dict[str, str]:
    return picture.sent


def _text(picture: Picture) -> str:
    return picture.sent["value"]


_CLICK = {"points": [{"x": 320, "y": 240, "positive": True}]}

WORK: dict[str, tuple[Send, int]] = {
    "concept": (_json("/sam3/concept_segment", image=_sent, prompts=[{"text": "circle"}]), 2),
    "visual": (_json("/sam3/visual_segment", image=_sent, prompts=[_CLICK]), 3),
    "segment_image": (_json("/sam2/segment_image", image=_sent, prompts=[_CLICK]), 3),
    "embed sam3": (_json("/sam3/embed_image", image=_sent), 1),
    "embed sam2": (_json("/sam2/embed_image", image=_sent), 1),
    "text": (_form("/segment/text", prompt="circle"), 2),
    "predict": (_form("/segment/predict", model_version="sam2", boxes=[9, 9, 99, 99]), 3),
    "predict sam3": (_form("/segment/predict", boxes=[9, 9, 99, 99], point_coords=[[9, 9]]), 5),
    "automatic": (_form("/segment/automatic", points_per_side=2), 5),
    "automatic sam3": (_form("/segment/automatic", model_version="sam3"), 2),
    "sam3-image": (_json("/v1/sam3-image", image=_text, text_prompt="circle"), 2),
    "sam3-image points": (
        _json("/v1/sam3-image", image=_text, text_prompt="circle", points_input=[[9, 9]]),
        5,
    ),
    "sam3-image automatic": (_json("/v1/sam3-image", image=_text, points_per_side=2), 5),
    "sam-v2-image": (_json("/v1/sam-v2-image", image=_text, coordinates="[9, 9]"), 3),
    "sam-v2-image words": (_json("/v1/sam-v2-image", image=_text, prompt="circle"), 2),
    "space": (
        _json("/api/sam2_compatible", inputs=lambda p: {"image": _text(p), "text_prompts": ["x"]}),
        2,
    ),
    "space points": (
        _json(
            "/api/sam2_compatible",
            inputs=lambda p: {"image": _text(p), "points": [[9, 9]], "point_labels": [1]},
        ),
        3,
    ),
    "space words and negatives": (
        _json(
            "/api/sam2_compatible",
            inputs=lambda p: {
                "image": _text(p),
                "text_prompts": ["x"],
                "boxes": [[9, 9, 99, 99]],
                "box_labels": [0],
                "points": [[9, 9]],
                "point_labels": [0],
            },
        ),
        2,
    ),
    "space words and boxes": (
        _json(
            "/api/sam2_compatible",
            inputs=lambda p: {
                "image": _text(p),
                "text_prompts": ["x"],
                "boxes": [[9, 9, 99, 99], [9, 9, 19, 19]],
                "box_labels": [1, 0],
            },
        ),
        5,
    ),
    "gradio": (_json("/api/predict", data=lambda p: [_text(p), "circle", 0.5]), 2),
    "job sam3-image": (_json("/v2/sam3-image", image=_text, text_prompt="circle"), 2),
    "job sam-v2-image": (_json("/v2/sam-v2-image", image=_text, coordinates="[9, 9]"), 3),
    "job concept": (_json("/v2/sam3/concept_segment", image=_sent, prompts=[{"text": "x"}]), 2),
    "job visual": (_json("/v2/sam3/visual_segment", image=_sent, prompts=[_CLICK]), 3),
}
"""A request to each endpoint that processes images, and its cost with `COSTS`."""


def error_message(response: httpx.Response) -> str:
    """Return an error's message, in the form of its API."""
    path = response.request.url.path
    body = response.json()
    if path.startswith("/api/"):
        assert (body["success"], body["masks"], body["num_objects"]) == (False, [], 0)
        word = "error"
    elif path.startswith("/segment/"):
        word = "detail"
    elif path.startswith(("/v1/", "/v2/")) and not path.startswith("/v2/sam3/"):
        word = "error"
    else:
        word = "message"
    if word != "error" or not path.startswith("/api/"):
        assert set(body) == {word, "code"}, body
    assert isinstance(body[word], str)
    return str(body[word])


def is_segmind(path: str) -> bool:
    """Whether an endpoint belongs to Segmind's API."""
    return path.startswith(("/v1/", "/v2/")) and not path.startswith("/v2/sam3/")
