"""Asking a replica of an engine: by session, once more where it is lost, in the server's errors."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from inference_server.errors import CapacityError, ModelUnavailableError, TransientError

logger = logging.getLogger(__name__)

_ATTEMPTS = 2
_PAUSE = 0.05
"""Seconds before the second attempt, in which the router hears of the loss."""

_RETRY_AFTER = 5.0
"""Seconds that Ray may take to have another replica."""

_LOST = (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    ReplicaUnavailableError,
    TaskCancelledError,
    WorkerCrashedError,
)
"""What is raised when a replica, its node, or what was sent to it is gone."""


async def ask(
    handle: DeploymentHandle[Any],
    method: str,
    session: str,
    *arguments: Any,
    patience: float | None,
) -> Any:
    """Call a method of the replica that has a session.

    A call whose replica is lost is made once more, and goes to the replica that has the session
    now: answers are functions of what is asked, so that nothing is done twice that matters.

    Args:
        handle: of the deployment.
        method: to call.
        session: requests of one session go to one replica, while it lives and is not too busy.
        arguments: of the method.
        patience: seconds until a replica is there and free; None is as long as it takes.

    Raises:
        CapacityError: as many requests wait for replicas as may.
        TransientError: no replica was free in time, or two in a row were lost.
        ModelUnavailableError: the deployment has failed.
    """
    called = handle.options(method_name=method, session_id=session)
    for attempt in range(_ATTEMPTS):
        if attempt:
            await asyncio.sleep(_PAUSE)
        response = called.remote(*arguments)
        try:
            return await _answer(
                cast("DeploymentResponse[Any]", response), patience, handle.deployment_name
            )
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            logger.warning("A replica of %s has dropped a request", handle.deployment_name)
        except BackPressureError:
            raise CapacityError(
                f"Too many requests wait for {handle.deployment_name} engines. Try again shortly.",
                full="queue",
            ) from None
        except DeploymentUnavailableError as error:
            raise ModelUnavailableError(
                f"The {handle.deployment_name} engines could not be started; `serve status` says "
                "why."
            ) from error
        except _LOST as error:
            logger.warning(
                "A replica of %s is lost (%s)", handle.deployment_name, type(error).__name__
            )
    raise TransientError(
        f"Two replicas of {handle.deployment_name} were lost while they answered. Try again "
        "shortly.",
        _RETRY_AFTER,
    )


async def _answer(response: DeploymentResponse[Any], patience: float | None, name: str) -> Any:
    """Wait for an answer, but not so long for a replica to begin with it.

    Raises:
        TransientError: none has.
    """

    async def result() -> Any:
        return await response

    task = asyncio.ensure_future(result())
    # One that is given up ends with an error of Ray's, which nobody waits for.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.wait({task}, timeout=patience)
        # There is no public way to ask whether a replica has it.
        if not task.done() and getattr(response, "_replica_result", response) is None:
            raise TransientError(
                f"No replica of the {name} engines was free within {patience:g} seconds. Try again "
                "shortly.",
                _RETRY_AFTER,
            )
        return await task
    finally:
        if not task.done():
            response.cancel()  # type: ignore[no-untyped-call]
            task.cancel()


async def ask_all(handle: DeploymentHandle[Any], method: str, seconds: float) -> None:
    """Call a method of every replica; one that is lost meanwhile has nothing to be told.

    Args:
        handle: of the deployment.
        method: to call.
        seconds: that they may take.

    Raises:
        TimeoutError: they take longer.
    """
    response = handle.broadcast(method)
    answers = await response.results_async(timeout_s=seconds, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, _LOST):
            raise answer
