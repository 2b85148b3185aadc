"""An ingress's HTTP server: its health check, and how it leaves the shared port."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from starlette.applications import Starlette

from inference_server.api.app import create_app
from inference_server.api.protocol import server_config
from inference_server.cluster.ingress import HEALTH, HealthCheck, IngressServer
from inference_server.cluster.port import SharedPort
from inference_server.cluster.service import ClusterSegmentationService
from inference_server.settings import Settings
from tests.api.serving import settings as server_settings
from tests.api.serving import until


@dataclass
class Running:
    """An ingress's server in a thread.

    Attributes:
        app: the application.
        server: its server.
        listener: its share of the listening socket.
        thread: its thread.
    """

    app: Starlette
    server: IngressServer
    listener: socket.socket
    thread: threading.Thread = field(init=False)

    def start(self) -> None:
        run = self.server.run
        self.thread = threading.Thread(target=run, kwargs={"sockets": [self.listener]})
        self.thread.start()
        until(lambda: self.server.started)

    def leave(self) -> None:
        """Begin to stop, in the server's loop."""
        loop = self.server._loop
        assert loop is not None
        asyncio.run_coroutine_threadsafe(self.server.leave(60, 60), loop)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        changes = {"host": "127.0.0.1", "port": held.getsockname()[1], "data_dir": str(tmp_path)}
        yield server_settings(**changes)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[[], Running]]:
    made: list[Running] = []

    def started() -> Running:
        app = create_app(settings, segmenter=partial(ClusterSegmentationService, handles={}))
        port = SharedPort(settings.host, settings.port, directory=tmp_path / "shared")
        config = server_config(HealthCheck(app), settings, log_level="warning")
        server = IngressServer(config, lambda: app.state.server, port)
        running = Running(app, server, port.open())
        made.append(running)
        running.start()
        return running

    yield started
    for each in made:
        each.server._shared.close()
        each.server.should_exit = True
        each.thread.join(120)


def asked(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response


def test_clients_of_a_leaving_ingress_move_to_the_other(
    settings: Settings, start: Callable[[], Running]
) -> None:
    """Idle connections stay open until they are used once more; new ones go to the other."""
    first = start()
    idle = http.client.HTTPConnection(settings.host, settings.port, timeout=120)
    assert asked(idle, HEALTH).status == 200
    second = start()
    first.leave()
    until(lambda: not any(each.is_serving() for each in first.server.servers))
    for _ in range(5):
        new = http.client.HTTPConnection(settings.host, settings.port, timeout=120)
        new.request("GET", "/livez")
        response = new.getresponse()
        body = json.loads(response.read())
        assert response.status == 200, body
        assert response.getheader("connection") != "close"
        new.close()
    assert second.server.server_state.total_requests == 5
    told = asked(idle, HEALTH)
    assert (told.status, told.getheader("connection")) == (503, "close")
    first.thread.join(120)
    assert not first.thread.is_alive()


def test_the_last_ingress_goes_on_accepting_for_a_while(
    settings: Settings, start: Callable[[], Running]
) -> None:
    """A load balancer has to notice; its health check tells it."""
    only = start()
    only.leave()
    until(lambda: only.app.state.server.admission.leaving)
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=120)
    assert asked(connection, HEALTH).status == 503
    assert asked(connection, "/livez").status == 200
    start()
    until(lambda: not any(each.is_serving() for each in only.server.servers))
