"""Thread pools that replace threads which die.

`concurrent.futures.ThreadPoolExecutor` is not enough, for three reasons:

* It never replaces a thread that dies between two work items, for example of a `MemoryError` in its
  own loop. Tried: with one thread, every later future waits forever.
* `sys.exit` in a work item reaches the coroutine that awaits it, and ends the event loop.
* It joins its threads when the interpreter exits, so a long forward delays the end of the process,
  and it offers no join with a timeout.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

BACKGROUND = 5
"""Niceness of background work. It gets about a quarter of a core that normal work competes for.
With 10 it would get a tenth, and one client that clicks continuously would stall all new images."""

SLOW = 10
"""Niceness of slow work. It gets about a third of the time that background work gets."""

_END_SECONDS = 10.0
"""Seconds to wait for threads when the interpreter exits."""

_ATTEMPTS = 2
"""Number of threads that a work item may end before it fails."""


class WorkerDiedError(RuntimeError):
    """A work item ended its thread on every attempt."""


class _Item:
    """A work item and its future."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self.deaths = 0
        self._work = work
        self._claimed = threading.Lock()

    def claim(self) -> bool:
        """Claim the item; true for the first caller only, however often the item is queued."""
        return self._claimed.acquire(blocking=False)

    def run(self) -> None:
        """Run the item. Exceptions that end a thread are not caught."""
        if not self.deaths and not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._work()
        except Exception as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def again(self) -> _Item | None:
        """A copy for another thread; None if the item is done or out of attempts."""
        if self.future.done():
            return None
        if self.deaths + 1 >= _ATTEMPTS:
            self.future.set_exception(
                WorkerDiedError(f"The work item ended its thread {_ATTEMPTS} times.")
            )
            return None
        item = _Item(self._work)
        item.future, item.deaths = self.future, self.deaths + 1
        return item


class _WorkerThreads:
    """The threads and queue of a pool. Threads refer to this, so that the pool can be collected.

    An asynchronous exception may end a thread at any bytecode, also between taking an item from the
    queue and storing it in a variable, or right after taking a lock. Therefore threads take no lock
    while they run, and waiting items are also kept in a set: after a death all of them are queued
    again, and `_Item.claim` discards duplicates.
    """

    def __init__(self, size: int, name: str, niceness: int) -> None:
        self.size = size
        self.name = name
        self.niceness = niceness
        self.lock = threading.Lock()
        self.queue: SimpleQueue[_Item | None] = SimpleQueue()
        self.waiting: set[_Item] = set()
        self.idle: deque[None] = deque()
        """One entry per idle thread that no item has been queued for."""
        self.threads: set[threading.Thread] = set()
        self.numbers = 0
        self.closed = False

    def add(self, item: _Item) -> None:
        """Queue an item; start a thread if none is idle and the pool is not full."""
        with self.lock:
            if self.closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._put(item)
            if self.idle:
                self.idle.pop()
            elif len(self.threads) < self.size:
                self._start()

    def _put(self, item: _Item) -> None:
        self.waiting.add(item)
        self.queue.put(item)

    def _start(self) -> None:
        name = f"{self.name}_{self.numbers}"
        self.numbers += 1
        # A daemon, so that a forward that no request waits for does not delay the process's end.
        thread = threading.Thread(target=self._live, name=name, daemon=True)
        # Added after its start, because `join` runs without the lock and cannot join unstarted
        # threads.
        thread.start()
        self.threads.add(thread)

    def _live(self) -> None:
        item: _Item | None = None
        died = True
        try:
            with suppress(OSError):  # priority is an optimisation; work without it
                be_nice(self.niceness)
            while (item := self._next()) is not None:
                item.run()
                item = None
            died = False
        finally:
            if died:  # after a normal end it stays in `threads`, so that `join` waits for it
                self._replace(item)

    def _next(self) -> _Item | None:
        """The next item to run; None if the pool is closed and empty."""
        while True:
            try:
                item = self.queue.get_nowait()
            except Empty:
                self.idle.append(None)
                item = self.queue.get()
            if item is not None:
                self.waiting.discard(item)
                if item.claim():
                    return item
            else:
                self.queue.put(None)  # wake the other threads
                if not self.waiting:
                    return None

    def _replace(self, item: _Item | None) -> None:
        """Requeue the items that a dying thread may have lost, and start its successor."""
        again = item.again() if item is not None else None
        with self.lock:
            self.threads.discard(threading.current_thread())
            logger.error("A worker thread of %s died; starting a replacement", self.name)
            for lost in [*self.waiting, again]:
                if lost is not None:
                    self._put(lost)
            if self.closed:
                self.queue.put(None)  # the dead thread may have taken the marker
            if self.waiting or not self.closed:
                self._start()

    def close(self, *, cancel: bool = False) -> None:
        """Let the threads end when the queue is empty; with `cancel`, after their current items."""
        with self.lock:
            self.closed = True
            self.queue.put(None)
            dropped = [item for item in self.waiting if item.claim()] if cancel else []
            self.waiting.difference_update(dropped)
        for item in dropped:
            item.future.cancel()

    def join(self, seconds: float | None) -> bool:
        """Wait for the threads to end; false if the timeout expires first."""
        end = None if seconds is None else time.monotonic() + seconds
        for thread in list(self.threads):
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in list(self.threads))


class WorkerPool(Executor):
    """An executor that replaces threads which die.

    Waiting items are run by the replacement. An item that ended its thread is retried once, and
    then fails with `WorkerDiedError`. Threads start on demand. They end when the pool is shut down
    or garbage collected.

    Args:
        size: Maximum number of threads.
        name: Prefix of the thread names.
        niceness: Niceness of the threads, 0 to 19, see `be_nice`; default 0.
    """

    def __init__(self, size: int, name: str, niceness: int = 0) -> None:
        self._state = _WorkerThreads(size, name, niceness)
        _POOLS.add(self._state)
        weakref.finalize(self, self._state.close).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a work item; see `Executor.submit`."""
        item = _Item(partial(fn, *args, **kwargs))
        self._state.add(item)
        return item.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further items and end the threads when idle; see `Executor.shutdown`."""
        self._state.close(cancel=cancel_futures)
        if wait:
            self._state.join(None)


_POOLS: weakref.WeakSet[_WorkerThreads] = weakref.WeakSet()


def end_all(seconds: float) -> bool:
    """Cancel waiting items and end the threads of all pools, before the process exits.

    Args:
        seconds: Maximum time to wait for running items.

    Returns:
        Whether all threads ended. If not, exit with `os._exit`: finalising the interpreter while a
        thread is in native code can crash.
    """
    end = time.monotonic() + seconds
    states = list(_POOLS)
    for state in states:
        state.close(cancel=True)
    return all(state.join(max(0.0, end - time.monotonic())) for state in states)


atexit.register(end_all, _END_SECONDS)


def be_nice(niceness: int) -> None:
    """Lower the priority of the calling thread and of threads that it starts. Linux only.

    Each thread has its own OpenMP threads, which inherit its priority, so a background queue's
    OpenMP threads run in the background too.

    Args:
        niceness: 0 (unchanged) to 19 (lowest priority).
    """
    if niceness and sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


class WorkCancelledError(Exception):
    """Nobody waits for the running work any more. The error itself reaches nobody either."""


_cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


def stop_if_cancelled() -> None:
    """End work in a thread of `Threads` whose caller has left; do nothing anywhere else.

    A running thread cannot be cancelled, so long work calls this between its steps.

    Raises:
        WorkCancelledError: The caller was cancelled.
    """
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled.is_set():
        raise WorkCancelledError


class Threads:
    """CPU worker threads: a pool for masks and responses, one for images, one for slow work.

    Image decoding has a lower priority than masks, so it does not delay the masks of other
    requests. Slow work (images of many pixels, rasters) has an even lower one and threads of its
    own: however much of it there is, the threads for other images remain free.

    Args:
        count: Threads of each of the first two pools; 0 means one per core, at least two.
        slow: Threads for slow work; 0 means a quarter of `count`, at least two.

    Attributes:
        count: Threads of each of the first two pools.
    """

    def __init__(self, count: int = 0, slow: int = 0) -> None:
        self.count = count or max(2, os.cpu_count() or 1)
        self._workers = WorkerPool(self.count, "cpu")
        self._readers = WorkerPool(self.count, "images", BACKGROUND)
        self._slow = WorkerPool(slow or max(2, self.count // 4), "slow", SLOW)

    async def run(self, work: Callable[[], T]) -> T:
        """Run CPU work in a worker thread, in a copy of the caller's context."""
        return await self._run(self._workers, work)

    async def run_in_background(self, work: Callable[[], T]) -> T:
        """Run CPU work on an image in a background thread."""
        return await self._run(self._readers, work)

    async def run_slow(self, work: Callable[[], T]) -> T:
        """Run CPU work that may take seconds or much memory in a thread for such work."""
        return await self._run(self._slow, work)

    async def _run(self, pool: WorkerPool, work: Callable[[], T]) -> T:
        """Run work in a pool; if the caller is cancelled, `stop_if_cancelled` ends the work."""
        cancelled = threading.Event()
        context = copy_context()
        context.run(_cancelled.set, cancelled)
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, context.run, work)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def close(self) -> None:
        """Stop all pools and cancel waiting work."""
        for pool in (self._workers, self._readers, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)
