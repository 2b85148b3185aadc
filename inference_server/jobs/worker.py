"""A worker: claims jobs one at a time, runs them, and stores the outcome while its lease holds."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import orjson
from pydantic import ValidationError

from inference_server.auth import Tenant
from inference_server.errors import (
    CapacityError,
    DeadlineError,
    InferenceServerError,
    ModelUnavailableError,
    StorageError,
    TransientError,
)
from inference_server.jobs import quota
from inference_server.jobs.models import JSON_OUTPUT, Claim, Facts, Output
from inference_server.jobs.progress import Attempt
from inference_server.jobs.storage import JobStorage
from inference_server.jobs.task import ResultFile, Task, TaskContext, TaskResult
from inference_server.jobs.timing import DEFAULT_TIMING, JobTiming
from inference_server.jobs.work_signal import WorkSignal
from inference_server.observability.logging import about
from inference_server.observability.metrics import Timings
from inference_server.supervisor import BackgroundTask
from schemas.common import validation_detail, validation_message

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Failure:
    """The outcome of a failed attempt.

    Attributes:
        message: the reason, for the client.
        again: whether a retry may succeed.
        pause: least seconds before a retry.
    """

    message: str
    again: bool = False
    pause: float = 0.0


class Worker:
    """Runs jobs until it is cancelled.

    Args:
        storage: the database of the jobs.
        signal: wakes the worker when a job arrives.
        name: name of this process, which its leases are held under.
        tasks: tasks that the worker can run, by name; it claims no other jobs.
        context: what tasks need from this process.
        timing: intervals; tests shorten them.
        reserve: claim jobs only while all regular workers are busy, and only of tenants that have
            no job in progress. Default: False, a regular worker.
    """

    def __init__(
        self,
        storage: JobStorage,
        signal: WorkSignal,
        name: str,
        tasks: Mapping[str, Task],
        context: TaskContext,
        timing: JobTiming = DEFAULT_TIMING,
        *,
        reserve: bool = False,
    ) -> None:
        self._reserve = reserve
        self._storage = storage
        self._signal = signal
        self._name = name
        self._tasks = tasks
        self._context = context
        self._settings = context.settings
        self._timing = timing

    async def run(self, task: BackgroundTask) -> None:
        """Run jobs until the signal says to drain.

        If this is cancelled during a job, the job stays claimed until `JobStorage.close` requeues
        it. After an error, the supervisor calls this again.

        Args:
            task: told that the worker works.
        """
        kinds = list(self._tasks)
        while not self._signal.draining:
            wake = self._signal.next
            claim = None
            if self._signal.all_busy or not self._reserve:
                claim = await self._storage.call(
                    self._storage.repository.claim, self._name, kinds, self._reserve
                )
            task.well()
            if claim is None:
                # Not `asyncio.wait_for`, which loses a cancellation that comes with the signal.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._timing.poll):
                        await wake.wait()
            else:
                busy = nullcontext() if self._reserve else self._signal.working()
                with about(job_id=claim.lease.job_id), busy:
                    await self._process(claim)

    async def _process(self, claim: Claim) -> None:
        """Run a job for as long as its lease holds."""
        with self._signal.cancellable(claim.lease.job_id) as cancelled:
            attempt = Attempt(self._settings.job_raster_timeout)
            work = asyncio.create_task(self._run_task(claim, attempt))
            hold = asyncio.create_task(self._hold(claim, cancelled, attempt))
            try:
                await asyncio.wait({work, hold}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await self._end(claim, work.result(), hold)
                else:
                    why = "cancelled" if cancelled.is_set() else "lease lost"
                    logger.warning("Job %s: %s; dropping the attempt", claim.lease.job_id, why)
            finally:
                await _stop(work, hold)

    async def _hold(self, claim: Claim, cancelled: asyncio.Event, attempt: Attempt) -> None:
        """Keep a job's lease and store its progress; return when the lease is lost.

        Args:
            claim: the job.
            cancelled: set when this process cancels the job.
            attempt: reports how far it is.
        """
        lost = [
            asyncio.create_task(each)
            for each in (
                self._keep_lease(claim),
                self._watch_lease(claim, cancelled),
                self._store_progress(claim, attempt),
            )
        ]
        try:
            await asyncio.wait(lost, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _stop(*lost)

    async def _watch_lease(self, claim: Claim, cancelled: asyncio.Event) -> None:
        """Look whether the job was cancelled; return when it was, or the lease is lost."""
        while not cancelled.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.watch):
                    await cancelled.wait()
            with suppress(StorageError):
                if not await self._storage.call(self._storage.repository.holds, claim.lease):
                    return

    async def _store_progress(self, claim: Claim, attempt: Attempt) -> None:
        """Store what the attempt reports, at a bounded rate; return when the lease is lost."""
        while True:
            progress = await attempt.next_report()
            with suppress(StorageError):
                report = self._storage.repository.report
                if not await self._storage.call(report, claim.lease, progress):
                    return
            await asyncio.sleep(self._settings.job_progress_interval)

    async def _keep_lease(self, claim: Claim) -> None:
        """Renew the lease periodically; return when it is lost."""
        seconds = self._settings.job_lease
        until = time.monotonic() + seconds
        while True:
            await asyncio.sleep(seconds / self._timing.renewals)
            begin = time.monotonic()
            try:
                if not await self._storage.call(self._storage.repository.renew, claim.lease):
                    return
                until = begin + seconds
            except StorageError:
                if time.monotonic() > until:
                    return

    async def _run_task(self, claim: Claim, attempt: Attempt) -> Output | _Failure:
        """Run the task once, in a span if tracing is on."""
        timings = Timings()
        traces = self._context.traces
        if traces is None:
            return await self._attempt(claim, timings, attempt)
        with traces.job(claim.kind, claim.lease.job_id) as span:
            outcome = await self._attempt(claim, timings, attempt)
            traces.describe(
                span,
                timings,
                {
                    "inference.job_attempt": claim.attempt,
                    "inference.job_outcome": "done" if isinstance(outcome, Output) else "failed",
                },
            )
        return outcome

    async def _attempt(self, claim: Claim, timings: Timings, attempt: Attempt) -> Output | _Failure:
        """Run the task once."""
        begin = time.perf_counter()
        limit = self._settings.request_timeout
        try:
            async with asyncio.timeout(limit) as deadline:
                attempt.begin(deadline)
                task = self._tasks[claim.kind]
                body = await asyncio.to_thread(
                    lambda: task.request.model_validate(
                        orjson.loads(claim.payload), context=self._context.limits
                    )
                )
                context = replace(self._context, attempt=attempt, by_windows=attempt.by_windows)
                if claim.image is not None:
                    context = replace(context, image=claim.image)
                result = await task.run(context, Tenant(claim.tenant), body, timings)
                files = await asyncio.to_thread(_files, result, timings)
        except TimeoutError:
            return _late(attempt, limit)
        except ValidationError as error:
            return _Failure(validation_message(validation_detail(error)))
        except TransientError as error:
            return _Failure(error.message, again=True, pause=error.retry_after)
        except (DeadlineError, ModelUnavailableError) as error:
            return _Failure(error.message, again=True)
        except InferenceServerError as error:
            return _Failure(error.message)
        except MemoryError:
            await self._context.segmenter.evict_half()
            return _Failure("Out of memory while processing this request.", again=True)
        except Exception:
            logger.exception("Job %s failed", claim.lease.job_id)
            return _Failure(
                "Internal error; the server's log has the details under this request_id.",
                again=True,
            )
        self._context.metrics.observe(timings)
        seconds = time.perf_counter() - begin
        output = Output(files, seconds, _facts(result, timings), attempt.latest)
        trouble = quota.trouble_with_result(self._settings, output.nbytes)
        return _Failure(trouble) if trouble else output

    async def _end(
        self, claim: Claim, outcome: Output | _Failure, hold: asyncio.Task[None]
    ) -> None:
        """Store the outcome, and retry that for as long as the lease holds."""
        repository, lease = self._storage.repository, claim.lease
        again = False
        if isinstance(outcome, Output):
            write = functools.partial(repository.finish, lease, outcome)
        elif outcome.again and claim.attempt < self._settings.job_attempts:
            pause = self._settings.job_retry_pause * 2 ** (claim.attempt - 1)
            again = True
            write = functools.partial(repository.retry, lease, max(pause, outcome.pause))
        else:
            write = functools.partial(repository.fail, lease, outcome.message)
        while not hold.done():
            try:
                held = await self._storage.call(write)
            except StorageError:
                await asyncio.sleep(self._timing.error_pause)
                continue
            except CapacityError as error:
                # A retry would compute the result again, and it would not fit either.
                outcome, again = _Failure(error.message), False
                write = functools.partial(repository.fail, lease, error.message)
                continue
            if held:
                self._record(claim, outcome, again=again)
            else:
                logger.warning(
                    "Job %s: lease lost; dropping the outcome of attempt %d",
                    lease.job_id,
                    claim.attempt,
                )
            return

    def _record(self, claim: Claim, outcome: Output | _Failure, *, again: bool) -> None:
        """Log and count the outcome of an attempt."""
        done = isinstance(outcome, Output)
        word = "completed" if done else "retried" if again else "failed"
        self._context.metrics.jobs.labels(claim.kind, word).inc()
        logger.info(
            "Job %s (%s) %s at attempt %d%s",
            claim.lease.job_id,
            claim.kind,
            word,
            claim.attempt,
            f" in {outcome.seconds * 1e3:.0f} ms" if isinstance(outcome, Output) else "",
        )


def _late(attempt: Attempt, limit: float) -> _Failure:
    """Return the failure of an attempt that exceeded its time.

    Args:
        attempt: the attempt.
        limit: seconds that it had, unless it works on a raster.
    """
    if attempt.limit is None:
        return _Failure(f"The request took longer than {limit:g} seconds.", again=True)
    return _Failure(
        f"The raster took longer than {attempt.limit:g} seconds. Send a smaller raster or a "
        "larger tile_size, or raise INFERENCE_JOB_RASTER_TIMEOUT on the server."
    )


async def _stop(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _facts(result: TaskResult, timings: Timings) -> Facts:
    """Return what the headers of a synchronous response would tell."""
    image = result.image
    if image is None:
        return Facts(stages=timings.seconds)
    return Facts(image.model, image.hit, image.mismatch, timings.seconds)


def _files(result: TaskResult, timings: Timings) -> tuple[ResultFile, ...]:
    """Render a result as the files to store; call it in a worker thread."""
    with timings.measure("serialise"):
        if result.files is not None:
            return result.files()
        body = None if result.body is None else result.body()
        content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        return (ResultFile(JSON_OUTPUT, "application/json", content),)
