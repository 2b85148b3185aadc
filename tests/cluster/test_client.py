"""Calls to a replica: a lost one is retried once, and failures become the server's errors."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from inference_server import errors
from inference_server.cluster.client import ask
from inference_server.errors import (
    CapacityError,
    InferenceServerError,
    InvalidRequestError,
    ModelUnavailableError,
    PromptError,
    TransientError,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Response:
    """Stands in for Ray's `DeploymentResponse`.

    Args:
        outcome: result to return; an exception is raised, and an event is first waited for.
        assigned: whether a replica has accepted the request. Default: True.
    """

    def __init__(self, outcome: Any, *, assigned: bool = True) -> None:
        self.outcome = outcome
        self.cancelled = False
        self.awaited = asyncio.Event()
        self._replica_result = object() if assigned else None

    def __await__(self) -> Generator[Any, None, Any]:
        self.awaited.set()
        if isinstance(self.outcome, asyncio.Event):
            yield from self.outcome.wait().__await__()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Stands in for Ray's `DeploymentHandle`: returns prepared responses in order."""

    deployment_name = "visual"

    def __init__(self, *responses: Response) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._responses: Iterator[Response] = iter(responses)
        self._options: dict[str, Any] = {}

    def options(self, **options: Any) -> Handle:
        self._options = options
        return self

    def remote(self, *arguments: Any) -> Response:
        self.asked.append((self._options["method_name"], self._options["session_id"], *arguments))
        return next(self._responses)


async def asked(handle: Any, patience: float | None = 60.0) -> Any:
    return await ask(handle, "ask", "session", 1, 2, patience=patience, retry_pause=0.0)


async def settle() -> None:
    """Let the event loop run everything that is ready, timeouts of zero seconds included."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_call_goes_to_the_replica_of_the_session() -> None:
    handle = Handle(Response("answer"))
    assert await asked(handle) == "answer"
    assert handle.asked == [("ask", "session", 1, 2)]


@pytest.mark.parametrize("lost", [ActorDiedError(), ActorUnavailableError("gone", None)])
async def test_a_call_to_a_lost_replica_is_retried_once(lost: Exception) -> None:
    handle = Handle(Response(lost), Response("answer"))
    assert await asked(handle) == "answer"
    assert len(handle.asked) == 2
    with pytest.raises(TransientError, match="Two replicas of visual were lost") as told:
        await asked(Handle(Response(lost), Response(lost)))
    assert told.value.status == 503
    assert int(told.value.headers["retry-after"]) > 0


async def test_a_full_queue_is_a_capacity_error() -> None:
    handle = Handle(Response(BackPressureError(3, 3)))
    with pytest.raises(CapacityError) as told:
        await asked(handle)
    assert (told.value.status, told.value.full) == (429, "queue")
    assert len(handle.asked) == 1, "a full queue is not retried"


async def test_a_failed_deployment_is_an_error() -> None:
    failed = DeploymentUnavailableError(DeploymentID("visual", "inference-server"))
    with pytest.raises(ModelUnavailableError, match="serve status"):
        await asked(Handle(Response(failed)))


async def test_the_wait_for_a_free_replica_is_bounded() -> None:
    waiting = Response(asyncio.Event(), assigned=False)
    with pytest.raises(TransientError, match="No visual replica was free within 0 seconds"):
        await asked(Handle(waiting), patience=0.0)
    assert waiting.cancelled


async def test_without_patience_limit_a_call_waits_for_a_replica() -> None:
    event = asyncio.Event()
    waiting = Response(event, assigned=False)
    task = asyncio.create_task(asked(Handle(waiting), patience=None))
    await waiting.awaited.wait()
    await settle()
    assert not task.done()
    event.set()
    assert await task is event
    assert not waiting.cancelled


async def test_a_started_call_has_no_patience_limit() -> None:
    event = asyncio.Event()
    begun = Response(event)
    task = asyncio.create_task(asked(Handle(begun), patience=0.0))
    await begun.awaited.wait()
    await settle()
    assert not task.done()
    event.set()
    assert await task is event


async def test_a_cancelled_request_cancels_the_call() -> None:
    waiting = Response(asyncio.Event())
    handle = Handle(waiting)
    task = asyncio.create_task(asked(handle))
    await waiting.awaited.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiting.cancelled
    assert len(handle.asked) == 1


async def test_unexpected_errors_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await asked(Handle(Response(ZeroDivisionError())))


def _all(kind: type[InferenceServerError]) -> Iterator[type[InferenceServerError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _all(below)


@pytest.mark.parametrize("kind", list(_all(InferenceServerError)))
def test_every_error_survives_pickling(kind: type[InferenceServerError]) -> None:
    error = kind("message")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.status) == (kind, error.message, error.status)
    assert (copy.headers, vars(copy)) == (error.headers, vars(error))


def test_error_attributes_survive_pickling() -> None:
    detail = [{"loc": ["body", "x"], "msg": "no", "type": "y"}]
    for error in (
        CapacityError("full", 7.0, full="queue"),
        PromptError("outside", ("body", "prompts", 3)),
        InvalidRequestError("wrong", detail),
    ):
        assert vars(pickle.loads(pickle.dumps(error))) == vars(error)
