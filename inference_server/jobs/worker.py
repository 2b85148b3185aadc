"""A worker: claims jobs one after another, does them, and ends them while it holds them."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from pydantic import ValidationError

from inference_server.auth import Tenant
from inference_server.errors import (
    DeadlineError,
    InferenceServerError,
    ModelUnavailableError,
    StorageError,
    TransientError,
)
from inference_server.jobs.models import JSON_OUTPUT, Claim, Output
from inference_server.jobs.task import ResultFile, Task, TaskContext, TaskResult
from inference_server.observability.logging import about
from inference_server.observability.metrics import Timings
from inference_server.settings import MiB
from schemas.common import validation_detail, validation_message

if TYPE_CHECKING:
    from inference_server.jobs.queue import Jobs

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
"""Between looks for jobs that other processes accepted, or that are due after a pause."""

_STORAGE_PAUSE = 1.0
_RENEWALS = 3
"""Renewals in the time of one lease."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A job that did not succeed.

    Attributes:
        message: why, for the client.
        again: trying again may help.
        pause: seconds to wait before that.
    """

    message: str
    again: bool = False
    pause: float = 0.0


class Worker:
    """Does jobs until it is cancelled.

    Args:
        jobs: where they come from.
        owner: name of this process.
        tasks: what it can do.
        context: what tasks need from this process.
    """

    def __init__(
        self, jobs: Jobs, owner: str, tasks: Mapping[str, Task], context: TaskContext
    ) -> None:
        self._jobs = jobs
        self._owner = owner
        self._tasks = tasks
        self._context = context
        self._settings = context.settings

    async def run(self) -> None:
        """Do jobs until no more are to be begun.

        One that is cancelled at a job leaves it to `Jobs.stop`, which puts it back into the queue.
        """
        kinds = list(self._tasks)
        while not self._jobs.draining:
            wake = self._jobs.wake
            try:
                claim = await self._jobs.call(self._jobs.store.claim, self._owner, kinds)
                if claim is None:
                    await self._jobs.wait(wake, _POLL_SECONDS)
                else:
                    with about(job_id=claim.ticket.job_id):
                        await self._do(claim)
            except StorageError:
                await asyncio.sleep(_STORAGE_PAUSE)
            except Exception:
                logger.exception("A worker stumbled, and goes on")
                await asyncio.sleep(_STORAGE_PAUSE)

    async def _do(self, claim: Claim) -> None:
        """Do one job for as long as it is held."""
        work = asyncio.create_task(self._outcome(claim))
        hold = asyncio.create_task(self._hold(claim))
        try:
            await asyncio.wait({work, hold}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await self._end(claim, work.result(), hold)
            else:
                logger.warning("Job %s is no longer held here", claim.ticket.job_id)
        finally:
            for task in (work, hold):
                task.cancel()
            await asyncio.gather(work, hold, return_exceptions=True)

    async def _hold(self, claim: Claim) -> None:
        """Renew the lease; returns when the job is lost."""
        lease = self._settings.job_lease
        until = time.monotonic() + lease
        while True:
            await asyncio.sleep(lease / _RENEWALS)
            begin = time.monotonic()
            try:
                if not await self._jobs.call(self._jobs.store.renew, claim.ticket):
                    return
                until = begin + lease
            except StorageError:
                if time.monotonic() > until:
                    return

    async def _outcome(self, claim: Claim) -> Output | _Failure:
        """Do what was asked, under a span where there are traces."""
        timings = Timings()
        traces = self._context.traces
        if traces is None:
            return await self._attempt(claim, timings)
        with traces.job(claim.kind, claim.ticket.job_id) as span:
            outcome = await self._attempt(claim, timings)
            traces.describe(
                span,
                timings,
                {
                    "inference.job_attempt": claim.attempt,
                    "inference.job_outcome": "done" if isinstance(outcome, Output) else "failed",
                },
            )
        return outcome

    async def _attempt(self, claim: Claim, timings: Timings) -> Output | _Failure:
        """Do what was asked."""
        begin = time.perf_counter()
        limit = self._settings.request_timeout
        try:
            async with asyncio.timeout(limit):
                task = self._tasks[claim.kind]
                body = await asyncio.to_thread(
                    lambda: task.request.model_validate(
                        orjson.loads(claim.payload), context=self._context.limits
                    )
                )
                result = await task.run(self._context, Tenant(claim.tenant), body, timings)
                files = await asyncio.to_thread(_files, result, timings)
        except TimeoutError:
            return _Failure(f"The request took longer than {limit:g} seconds.", True)
        except ValidationError as error:
            return _Failure(validation_message(validation_detail(error)))
        except TransientError as error:
            return _Failure(error.message, True, error.retry_after)
        except (DeadlineError, ModelUnavailableError) as error:
            return _Failure(error.message, True)
        except InferenceServerError as error:
            return _Failure(error.message)
        except MemoryError:
            await self._context.segmenter.evict_half()
            return _Failure("There is no memory left for this request.", True)
        except Exception:
            logger.exception("Job %s failed", claim.ticket.job_id)
            return _Failure("Internal error; the server's log has it under this request_id.", True)
        self._context.metrics.observe(timings)
        model = None if result.image is None else result.image.model
        output = Output(files, time.perf_counter() - begin, model)
        most = self._settings.job_result_mb * MiB
        if output.nbytes > most:
            return _Failure(
                f"The result has {output.nbytes / MiB:.1f} MiB, more than {most // MiB} MiB. Ask "
                "for less, or raise INFERENCE_JOB_RESULT_MB."
            )
        return output

    async def _end(
        self, claim: Claim, outcome: Output | _Failure, hold: asyncio.Task[None]
    ) -> None:
        """Write the outcome down, trying for as long as the job is held."""
        store, ticket = self._jobs.store, claim.ticket
        again = False
        if isinstance(outcome, Output):
            write = functools.partial(store.finish, ticket, outcome)
        elif outcome.again and claim.attempt < self._settings.job_attempts:
            pause = self._settings.job_retry_pause * 2 ** (claim.attempt - 1)
            again = True
            write = functools.partial(store.retry, ticket, max(pause, outcome.pause))
        else:
            write = functools.partial(store.fail, ticket, outcome.message)
        while not hold.done():
            try:
                held = await self._jobs.call(write)
            except StorageError:
                await asyncio.sleep(_STORAGE_PAUSE)
                continue
            if held:
                self._tell(claim, outcome, again=again)
            else:
                logger.warning(
                    "Job %s was taken over: what attempt %d found is dropped",
                    ticket.job_id,
                    claim.attempt,
                )
            return

    def _tell(self, claim: Claim, outcome: Output | _Failure, *, again: bool) -> None:
        """Log and count how an attempt went."""
        done = isinstance(outcome, Output)
        word = "completed" if done else "retried" if again else "failed"
        self._context.metrics.jobs.labels(claim.kind, word).inc()
        logger.info(
            "Job %s (%s) %s at attempt %d%s",
            claim.ticket.job_id,
            claim.kind,
            word,
            claim.attempt,
            f" in {outcome.seconds * 1e3:.0f} ms" if isinstance(outcome, Output) else "",
        )


def _files(result: TaskResult, timings: Timings) -> tuple[ResultFile, ...]:
    """Render a result as the files to store; call it in a worker thread."""
    with timings.measure("serialise"):
        if result.files is not None:
            return result.files()
        body = None if result.body is None else result.body()
        content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        return (ResultFile(JSON_OUTPUT, "application/json", content),)
