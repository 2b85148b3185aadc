"""Calls to the replicas of a deployment: directly, or through Serve while it has reported none."""

from __future__ import annotations

from functools import partial
from typing import Any

from ray.serve.handle import DeploymentHandle

from inference_server.cluster.client import ask
from inference_server.cluster.dispatch import Dispatcher
from inference_server.cluster.ring import ring_of
from inference_server.segmentation.types import Checkpoint
from inference_server.settings import Settings


class Caller:
    """Calls replicas of one deployment.

    Args:
        handle: Serve's handle of the deployment.
        settings: the server's settings.
    """

    def __init__(self, handle: DeploymentHandle[Any], settings: Settings) -> None:
        self._handle = handle
        self._patience = settings.cluster_patience
        self._direct = Dispatcher(
            handle.deployment_name,
            partial(ring_of, handle.app_name, handle.deployment_name),
            settings.queue_size,
            settings.cluster_patience,
            settings.cluster_message_mb << 20,
        )

    async def call(self, method: str, session: str, *arguments: Any) -> Any:
        """Call a method on the replica that owns a session; see `Dispatcher.ask`.

        Args:
            method: name of the method.
            session: session id.
            arguments: its positional arguments.
        """
        if self._direct.available:
            return await self._direct.ask(session, method, *arguments)
        return await ask(self._handle, method, session, *arguments, patience=self._patience)

    async def describe(self, patience: float | None) -> tuple[list[Checkpoint], str]:
        """Return the checkpoints of one replica, and why models failed to load.

        Args:
            patience: seconds to wait for a free replica; None waits without limit.
        """
        described: tuple[list[Checkpoint], str] = await ask(
            self._handle, "checkpoints", "checkpoints", patience=patience
        )
        return described

    def close(self) -> None:
        """Close the connections."""
        self._direct.close()
