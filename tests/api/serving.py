"""A server that really runs, and how the tests talk to it."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import httpx
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from inference_server.api.app import create_app
from inference_server.api.lifecycle import ServerContext
from inference_server.api.protocol import server_config
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.settings import Settings
from tests.waiting import until as until

ALICE, BOB = "inf_alice-s3cret", "inf_bob-s3cret"
"""The keys that every server of the tests knows."""

TIMEOUT = 120.0

KEPT = httpx.Limits(keepalive_expiry=1)
"""The client closes idle connections first. If a server closes one while a request is being sent,
the client gets a connection reset: so it was when a machine paused all threads for more than the
server's keep-alive timeout, 5 s at the time."""

CONCEPT, VISUAL = "/sam3/concept_segment", "/sam3/visual_segment"
SAM3_EMBED, SAM2_EMBED = "/sam3/embed_image", "/sam2/embed_image"


@dataclass
class Running:
    """A server that listens.

    Attributes:
        url: where.
        http: a client of it, which sends no key by itself.
    """

    url: str
    http: httpx.Client

    def get(self, path: str, *, key: str | None = ALICE, **headers: str) -> httpx.Response:
        return self.http.get(path, headers=_headers(key, headers))

    def post(
        self, path: str, body: Mapping[str, Any] | bytes, *, key: str | None = ALICE, **headers: str
    ) -> httpx.Response:
        sent = _headers(key, headers)
        if isinstance(body, bytes):
            return self.http.post(path, content=body, headers=sent)
        return self.http.post(path, json=body, headers=sent)

    def answer(self, path: str, key: str = ALICE, /, **body: Any) -> Any:
        """The body of an answer that must be 200."""
        response = self.post(path, body, key=key)
        assert response.status_code == 200, response.text
        return response.json()

    def concept(self, image: Mapping[str, str], *prompts: Any, **fields: Any) -> list[list[Any]]:
        """PCS: the predictions of each prompt; a prompt that is text may be just the text."""
        asked = [{"type": "text", "text": p} if isinstance(p, str) else p for p in prompts]
        answer = self.answer(CONCEPT, image=image, prompts=asked, **{"format": "rle", **fields})
        assert [r["prompt_index"] for r in answer["prompt_results"]] == list(range(len(prompts)))
        return [result["predictions"] for result in answer["prompt_results"]]

    def visual(self, image: Mapping[str, str], *prompts: Any, **fields: Any) -> list[Any]:
        """PVS: the prediction of each prompt."""
        asked = {"prompts": list(prompts)}
        answer = self.answer(VISUAL, image=image, prompts=asked, **{"format": "rle", **fields})
        found = [result["predictions"] for result in answer["prompt_results"]]
        assert [len(predictions) for predictions in found] == [1] * len(prompts)
        assert [predictions[0] for predictions in found] == answer["predictions"]
        return list(answer["predictions"])

    def metric(self, sample_name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 where there is none."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == sample_name and labels.items() <= sample.labels.items()
        )

    def until_ready(self, seconds: float = TIMEOUT) -> None:
        """Waits until the models are loaded."""

        def ready() -> bool:
            try:
                answer = self.http.get("/readyz")
            except httpx.TransportError:  # a kept connection was closed while it was idle
                return False
            assert answer.json()["status"] != "failed", answer.text
            return answer.status_code == 200

        until(ready, seconds, 0.2)


@dataclass
class RunningHere(Running):
    """A server in a thread of this process, so that a test can look inside.

    Attributes:
        app: the application.
    """

    app: Starlette

    @property
    def state(self) -> ServerContext:
        state: ServerContext = self.app.state.server
        return state

    @property
    def segmenter(self) -> LocalSegmentationService:
        segmenter = self.state.segmenter
        assert isinstance(segmenter, LocalSegmentationService)
        return segmenter

    def waiting(self) -> int:
        """How many images and prompts wait in the lanes of the models."""
        lanes = [lane for m in self.segmenter.models.loaded() for lane in (m._encode, m._decode)]
        return sum(lane.depth for lane in lanes)

    def sharing(self) -> int:
        """How many requests wait for one encoding of an image, of the one that most wait for."""
        flights = list(self.segmenter.encoder.embeddings._flights.values())
        return max((flight.waiting for flight in flights), default=0)


def _headers(key: str | None, headers: Mapping[str, str]) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return named if key is None else {"x-api-key": key, **named}


@contextmanager
def sending(server: Running, path: str, body: Mapping[str, Any]) -> Iterator[None]:
    """Sends a request, and hangs up without its answer when the block ends."""
    host, port = server.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {ALICE}"
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        connection.sendall(f"{head}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        yield


def steps(response: httpx.Response) -> dict[str, float]:
    """The header `server-timing` as milliseconds by step."""
    parts = response.headers["server-timing"].split(", ")
    matches = [re.fullmatch(r"([a-z-]+);dur=([0-9.]+)", part) for part in parts]
    assert all(matches), parts
    return {match[1]: float(match[2]) for match in matches if match}


def settings(**changes: Any) -> Settings:
    """The settings of the tests' servers."""
    return Settings(**{"api_keys": f"{ALICE},{BOB}", **changes})


@contextmanager
def serving(
    *, ready: bool = True, load_pause: float = 10.0, linger: float = 5.0, **changes: Any
) -> Iterator[RunningHere]:
    """Runs a server with these settings on a free port.

    Args:
        ready: wait until its models are loaded.
        load_pause: seconds before the second attempt to load models; see `create_app`.
        linger: seconds after an early response; see `server_config`.
        changes: settings that differ from those of the tests' servers.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        _serving(ready, load_pause, linger, **{"data_dir": directory, **changes}) as running,
    ):
        yield running


@contextmanager
def _serving(
    ready: bool, load_pause: float, linger: float, **changes: Any
) -> Iterator[RunningHere]:
    used = settings(**changes)
    app = create_app(used, load_pause=load_pause)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = server_config(app, used, linger=linger, log_config=None, timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)

    def run() -> None:
        # A server that cannot start ends its process, which would be this one.
        with suppress(SystemExit):
            server.run([listener])

    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started, "the server did not start: see its log"
        with httpx.Client(base_url=url, timeout=TIMEOUT, limits=KEPT) as client:
            running = RunningHere(url, client, app)
            if ready:
                running.until_ready()
            yield running
    finally:
        server.should_exit = True
        thread.join(120)
        listener.close()
    assert not thread.is_alive()


@contextmanager
def in_process(**changes: Any) -> Iterator[RunningHere]:
    """Runs the application without a socket: requests reach it as ASGI calls.

    Args:
        changes: settings that differ from those of the tests' servers.
    """
    with tempfile.TemporaryDirectory() as directory:
        app = create_app(settings(**{"data_dir": directory, **changes}))
        with TestClient(app, raise_server_exceptions=False) as client:
            # Starlette's client has httpx's interface, and for mypy a class of its own.
            running = RunningHere(str(client.base_url), cast("httpx.Client", client), app)
            running.until_ready()
            yield running
