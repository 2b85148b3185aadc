"""An ingress: the whole HTTP server except the engines, as a Ray Serve class with its own port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.api.app import create_app
from inference_server.api.lifecycle import ServerContext
from inference_server.api.protocol import server_config
from inference_server.api.server import Server
from inference_server.cluster.loopback import keep_serve_local
from inference_server.cluster.messages import Family
from inference_server.cluster.port import SharedPort
from inference_server.cluster.scaling import ONGOING
from inference_server.cluster.service import ClusterSegmentationService
from inference_server.settings import Settings

logger = logging.getLogger(__name__)

HEALTH = "/-/healthz"
"""Path of the health check for load balancers and KubeRay: 503 once this ingress stops."""

_LEAVE_SECONDS = 10.0

IDLE_SECONDS = 2.0
"""Seconds for which a stopping ingress keeps idle connections: a client that uses one of them gets
its response and is told to open a new one."""

_TICK = 0.05


def leave_seconds(settings: Settings) -> float:
    """Return for how long the only ingress of a machine still accepts connections when it stops.

    Load balancers notice meanwhile. It ends earlier if another ingress starts on the machine.

    Args:
        settings: the server's settings.
    """
    return max(_LEAVE_SECONDS, settings.drain_seconds)


class Ingress:
    """Serves HTTP on the server's port, beside the other ingresses of its machine.

    Args:
        settings: the server's settings.
        engines: handle of each engine deployment.
    """

    def __init__(self, settings: Settings, **engines: DeploymentHandle[Any]) -> None:
        self._settings = settings
        self._handles: dict[Family, DeploymentHandle[Any]] = {
            family: engines[family] for family in get_args(Family) if family in engines
        }
        self._app: Starlette | None = None
        self._port = SharedPort(settings.host, settings.port)
        self._server: IngressServer | None = None
        self._serving: asyncio.Task[None] | None = None

    async def record_replica_metadata(self) -> dict[str, Any]:
        """Start to serve; Ray Serve calls this once, before the replica counts as ready."""
        keep_serve_local()
        segmenter = partial(
            ClusterSegmentationService, handles=self._handles, ingresses=_handle_of_ingresses
        )
        self._app = app = create_app(self._settings, segmenter=segmenter)
        config = server_config(
            HealthCheck(app), self._settings, log_level="warning", timeout_graceful_shutdown=5
        )
        listener = await asyncio.to_thread(self._port.open)
        self._server = server = IngressServer(config, lambda: app.state.server, self._port)
        self._serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            if self._serving.done():
                await self._serving
                raise RuntimeError("The ingress stopped while it started; see its log")
            await asyncio.sleep(_TICK)
        # Serve awaits this when it stops the replica. On the class, Python would call it as well.
        setattr(self, "__del__", self.stop)  # noqa: B010
        return {}

    async def stop(self) -> None:
        """Serve the requests in progress, and let clients move to other ingresses."""
        if self._server is not None and self._serving is not None:
            await self._server.leave(leave_seconds(self._settings))
            await self._serving

    def check_health(self) -> None:
        """Let Serve replace this replica if its server has ended."""
        if self._serving is not None and self._serving.done():
            raise RuntimeError("The HTTP server has ended")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the number of requests in progress."""
        context = self._context
        return {ONGOING: float(context.admission.working if context else 0)}

    async def forget_image(self, tenant: str, image_id: str, keep: str | None) -> bool:
        """Remove an image's file from this ingress, for another one that was asked to."""
        segmenter = self._context.segmenter if self._context else None
        if not isinstance(segmenter, ClusterSegmentationService):  # it is starting: it has none
            return False
        return segmenter.forget_file(tenant, image_id, keep)

    @property
    def _context(self) -> ServerContext | None:
        return None if self._app is None else getattr(self._app.state, "server", None)


def _handle_of_ingresses() -> DeploymentHandle[Any]:
    """The handle of the deployment that this replica belongs to."""
    context = serve.get_replica_context()
    return serve.get_deployment_handle(context.deployment, context.app_name)


class IngressServer(Server):
    """A server that leaves its port to the other ingresses of its machine before it drains.

    Args:
        config: uvicorn's configuration.
        state_of: returns the server's context.
        port: the shared port.
    """

    def __init__(self, config: Any, state_of: Any, port: SharedPort) -> None:
        super().__init__(config, state_of)
        self._shared = port

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to Ray."""
        yield

    async def leave(self, seconds: float, idle_seconds: float = IDLE_SECONDS) -> None:
        """Stop accepting connections, then drain.

        Args:
            seconds: see `leave_seconds`.
            idle_seconds: see `IDLE_SECONDS`. Default: 2.
        """
        self._state_of().admission.leave()
        self._shared.leave()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not await asyncio.to_thread(self._shared.peers) and loop.time() < end:
            await asyncio.sleep(_TICK)
        for server in self.servers:
            server.close()
        self._shared.close()
        end = loop.time() + idle_seconds
        while self.server_state.connections and loop.time() < end:
            await asyncio.sleep(_TICK)
        self.should_exit = True


class HealthCheck:
    """Answers `HEALTH`, and passes all other requests to the application.

    Args:
        app: the application.
    """

    def __init__(self, app: Starlette) -> None:
        self._app: ASGIApp = app
        self._state = app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["path"] != HEALTH:
            await self._app(scope, receive, send)
            return
        leaving = self._state.server.admission.leaving
        body = b"stopping" if leaving else b"success"
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        if leaving:
            headers.append((b"connection", b"close"))
        status = 503 if leaving else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        content = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": content})
