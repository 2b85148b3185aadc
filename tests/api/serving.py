"""Running servers, and clients for them."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
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
from tests.databases import prepare
from tests.waiting import until as until

ALICE, BOB = "inf_alice-s3cret", "inf_bob-s3cret"
"""The API keys of all test servers."""

TIMEOUT = 300.0

KEPT = httpx.Limits(keepalive_expiry=1)
"""Less than the server's keep-alive timeout, so that the client closes idle connections first.
Otherwise a request can be sent on a connection that the server is closing, and is reset."""

CONCEPT, VISUAL = "/sam3/concept_segment", "/sam3/visual_segment"
SAM3_EMBED, SAM2_EMBED = "/sam3/embed_image", "/sam2/embed_image"


@dataclass
class Running:
    """A running server.

    Attributes:
        url: Its base URL.
        http: A client that sends no key by default.
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

    def delete(self, path: str, *, key: str | None = ALICE, **headers: str) -> httpx.Response:
        return self.http.delete(path, headers=_headers(key, headers))

    def answer(self, path: str, key: str = ALICE, /, **body: Any) -> Any:
        """Return the JSON of a response that must be 200."""
        response = self.post(path, body, key=key)
        assert response.status_code == 200, response.text
        return response.json()

    def concept(self, image: Mapping[str, str], *prompts: Any, **fields: Any) -> list[list[Any]]:
        """Return the PCS predictions of each prompt; a string stands for a text prompt."""
        asked = [{"type": "text", "text": p} if isinstance(p, str) else p for p in prompts]
        answer = self.answer(CONCEPT, image=image, prompts=asked, **{"format": "rle", **fields})
        assert [r["prompt_index"] for r in answer["prompt_results"]] == list(range(len(prompts)))
        return [result["predictions"] for result in answer["prompt_results"]]

    def visual(self, image: Mapping[str, str], *prompts: Any, **fields: Any) -> list[Any]:
        """Return the PVS prediction of each prompt."""
        asked = {"prompts": list(prompts)}
        answer = self.answer(VISUAL, image=image, prompts=asked, **{"format": "rle", **fields})
        found = [result["predictions"] for result in answer["prompt_results"]]
        assert [len(predictions) for predictions in found] == [1] * len(prompts)
        assert [predictions[0] for predictions in found] == answer["predictions"]
        return list(answer["predictions"])

    def metric(self, sample_name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels; 0 without samples."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == sample_name and labels.items() <= sample.labels.items()
        )

    def until_ready(self, seconds: float = TIMEOUT) -> None:
        """Wait until the models are loaded."""

        def ready() -> bool:
            try:
                answer = self.http.get("/readyz")
            except httpx.TransportError:  # an idle connection was closed
                return False
            assert answer.json()["status"] != "failed", answer.text
            return answer.status_code == 200

        until(ready, seconds)


@dataclass
class RunningHere(Running):
    """A server in this process, so that tests can access its objects.

    Attributes:
        app: The application.
    """

    app: Starlette

    @property
    def state(self) -> ServerContext:
        state: ServerContext = self.app.state.server
        return state

    def until_ready(self, seconds: float = TIMEOUT) -> None:
        """As of any server, but the question is no request, which would take the load's time."""

        def loaded() -> bool:
            assert self.state.ready or not self.state.failure, self.state.failure
            return self.state.ready

        until(loaded, seconds)
        super().until_ready(seconds)

    @property
    def segmenter(self) -> LocalSegmentationService:
        segmenter = self.state.segmenter
        assert isinstance(segmenter, LocalSegmentationService)
        return segmenter

    @property
    def points_model(self) -> str:
        """The label of the model that answers points and boxes: SAM 3's head, or SAM 2."""
        catalog = self.segmenter.catalog
        return catalog.label(catalog.visual(None))

    def waiting(self) -> int:
        """Return the number of images and prompts in the models' queues."""
        return sum(q.depth for m in self.segmenter.models.loaded() for q in m.queues)

    def sharing(self) -> int:
        """Return the largest number of requests that wait for the same encode."""
        flights = list(self.segmenter.encoder.embeddings._flights.values())
        return max((flight.waiting for flight in flights), default=0)


def _headers(key: str | None, headers: Mapping[str, str]) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return named if key is None else {"x-api-key": key, **named}


@contextmanager
def sending(server: Running, path: str, body: Mapping[str, Any]) -> Iterator[None]:
    """Send a request, and disconnect at the end of the block without reading the response."""
    host, port = server.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {ALICE}"
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        connection.sendall(f"{head}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        yield


def steps(response: httpx.Response) -> dict[str, float]:
    """Return the milliseconds by stage of the header `server-timing`."""
    parts = response.headers["server-timing"].split(", ")
    matches = [re.fullmatch(r"([a-z-]+);dur=([0-9.]+)", part) for part in parts]
    assert all(matches), parts
    return {match[1]: float(match[2]) for match in matches if match}


def settings(**changes: Any) -> Settings:
    """Return the settings of a test server: on a busy machine, clients send and read slowly."""
    return Settings(**{"api_keys": f"{ALICE},{BOB}", "min_rate_window": TIMEOUT, **changes})


@contextmanager
def serving(
    *, ready: bool = True, load_pause: float = 10.0, linger: float = 5.0, **changes: Any
) -> Iterator[RunningHere]:
    """Run a server in a thread, on a free port.

    Args:
        ready: Wait until its models are loaded. Otherwise it loads SAM 2 alone, which is small, if
            no setting tells which.
        load_pause: Seconds before the second attempt to load models; see `create_app`.
        linger: Seconds after an early response; see `server_config`.
        changes: Settings that differ from those of other test servers.
    """
    if not ready and not any("weights" in name or "models" in name for name in changes):
        changes.setdefault("preload", "sam2:sam2-hiera-large")
    with (
        tempfile.TemporaryDirectory() as directory,
        _serving(ready, load_pause, linger, **_stored(directory, changes)) as running,
    ):
        yield running


def _stored(directory: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return these settings; if they name no place for data, with a prepared directory."""
    if "data_dir" in changes or changes.get("database_url"):
        return {"data_dir": directory, **changes}
    return {"data_dir": str(prepare(Path(directory))), **changes}


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
        # A server that cannot start exits, which would end this process.
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
    """Run the application without a socket; requests are ASGI calls.

    Args:
        changes: Settings that differ from those of other test servers.
    """
    with tempfile.TemporaryDirectory() as directory:
        app = create_app(settings(**_stored(directory, changes)))
        with TestClient(app, raise_server_exceptions=False) as client:
            # Starlette's client has httpx's interface, but mypy sees an unrelated class.
            running = RunningHere(str(client.base_url), cast("httpx.Client", client), app)
            running.until_ready()
            yield running
