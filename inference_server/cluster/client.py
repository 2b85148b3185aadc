"""Calls replicas through Serve's handles, retries once if a replica is lost, and maps errors.

Requests about images go to replicas directly, see `cluster.dispatch`; they come here only while
Serve has not reported any replica to this process, or with another router.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Any, cast

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
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

from inference_server.errors import (
    CapacityError,
    DeadlineError,
    InferenceServerError,
    ModelUnavailableError,
    TransientError,
)

logger = logging.getLogger(__name__)

ATTEMPTS = 2

RETRY_PAUSE = 0.05
"""Seconds before the second attempt, so that the router learns of the loss."""

RETRY_AFTER = 5.0
"""Seconds after which a client should retry: Ray needs about as long to start another replica."""

_LOST = (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    ReplicaUnavailableError,
    TaskCancelledError,
    WorkerCrashedError,
)
"""Errors that Ray raises if a replica, its node or an object that was sent to it is lost."""


async def ask(
    handle: DeploymentHandle[Any],
    method: str,
    session: str,
    *arguments: Any,
    patience: float | None,
    retry_pause: float = RETRY_PAUSE,
    retry_after: float = RETRY_AFTER,
) -> Any:
    """Call a method on the replica that owns a session.

    If the replica is lost, the call is retried once on the session's new owner. This is safe
    because calls have no side effects other than filling caches.

    Args:
        handle: handle of the deployment.
        method: name of the method.
        session: session id; requests of one session go to one replica while it is running and not
            too busy.
        arguments: positional arguments of the method.
        patience: seconds to wait for a free replica; None waits without limit.
        retry_pause: seconds before the second attempt. Default: 0.05.
        retry_after: seconds in `Retry-After` if no replica answered. Default: 5.

    Returns:
        The result of the method.

    Raises:
        CapacityError: the queue of requests that wait for replicas is full.
        TransientError: no replica was free in time, or two in a row were lost.
        ModelUnavailableError: the deployment has failed.
    """
    called = handle.options(method_name=method, session_id=session)
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(retry_pause)
        response = called.remote(*arguments)
        try:
            return await _result(
                cast("DeploymentResponse[Any]", response),
                patience,
                handle.deployment_name,
                retry_after,
            )
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            logger.warning("A replica of %s cancelled a request", handle.deployment_name)
        except BackPressureError:
            raise CapacityError(
                f"Too many requests wait for {handle.deployment_name} replicas. Try again shortly.",
                full="queue",
            ) from None
        except (ObjectStoreFullError, OutOfDiskError):
            raise CapacityError(
                "Ray's object store, through which images reach the engines, is full. Try again "
                "shortly.",
                full="store",
            ) from None
        except DeploymentUnavailableError as error:
            raise ModelUnavailableError(
                f"The {handle.deployment_name} replicas failed to start; run `serve status` for "
                "the reason."
            ) from error
        except _LOST as error:
            logger.warning(
                "A replica of %s was lost (%s)", handle.deployment_name, type(error).__name__
            )
    raise TransientError(
        f"Two replicas of {handle.deployment_name} were lost while processing the request. Try "
        "again shortly.",
        retry_after,
    )


async def _result(
    response: DeploymentResponse[Any], patience: float | None, name: str, retry_after: float
) -> Any:
    """Wait for a result without limit, but only `patience` seconds for a replica to start on it.

    Raises:
        TransientError: no replica started in time.
    """

    async def result() -> Any:
        return await response

    task = asyncio.ensure_future(result())
    # An abandoned call ends with an error of Ray's; retrieve it so that asyncio does not log it.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.wait({task}, timeout=patience)
        # Ray has no public API that tells whether a replica has accepted the request.
        if not task.done() and getattr(response, "_replica_result", response) is None:
            raise TransientError(
                f"No {name} replica was free within {patience:g} seconds. Try again shortly.",
                retry_after,
            )
        return await task
    finally:
        if not task.done():
            response.cancel()  # type: ignore[no-untyped-call]
            task.cancel()


async def ask_all(
    handle: DeploymentHandle[Any], method: str, seconds: float, *arguments: Any
) -> list[Any]:
    """Call a method on every replica; replicas that are lost meanwhile are ignored.

    Args:
        handle: handle of the deployment.
        method: name of the method.
        seconds: timeout for all replicas together.
        arguments: arguments of the method.

    Returns:
        The results of the replicas that answered.

    Raises:
        TimeoutError: not all replicas answered in time.
    """
    response = handle.broadcast(method, *arguments)
    answers = await response.results_async(timeout_s=seconds, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, _LOST):
            raise answer
    return [answer for answer in answers if not isinstance(answer, Exception)]


async def tell_all(
    handle: DeploymentHandle[Any], method: str, seconds: float, *arguments: Any
) -> None:
    """Call a method on every replica, and raise the first error that one returns.

    Args:
        handle: see `ask_all`.
        method: see `ask_all`.
        seconds: see `ask_all`.
        arguments: see `ask_all`.

    Raises:
        DeadlineError: not all replicas answered in time; they go on.
        InferenceServerError: what a replica returned.
    """
    try:
        answers = await ask_all(handle, method, seconds, *arguments)
    except TimeoutError:
        raise DeadlineError(
            f"Not all {handle.deployment_name} replicas answered within {seconds:g} seconds; they "
            "go on. Try again to wait for them."
        ) from None
    for answer in answers:
        if isinstance(answer, InferenceServerError):
            raise answer


def session_of(tenant: str, name: str | None) -> str:
    """Return the session id that a router hashes; all requests about an image share it.

    Args:
        tenant: owner of the image.
        name: id of the image, or its SHA-256 digest if it has no id.

    Returns:
        SHA-256 in hex.
    """
    return hashlib.sha256(f"{tenant}\0{name}".encode()).hexdigest()
