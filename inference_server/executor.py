"""Threads that are replaced when they die.

The standard library's `ThreadPoolExecutor` counts a dead thread among the living: what it was about
to do, or did, is never answered. And what ends a thread there, such as a library that calls
`sys.exit`, comes out of the future that somebody awaits, and ends the event loop.
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
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

BACKGROUND = 5
"""Niceness of work that may take longer so that other work need not wait: a quarter of a core where
both want all of it. With 10, which leaves it a tenth, one client that clicks without pause holds up
everybody's new images."""

_END_SECONDS = 10.0
"""That threads may take at the end of the process."""

_ATTEMPTS = 2
"""Threads that a piece of work may take with it."""


class WorkerDiedError(RuntimeError):
    """The work ended its thread, and the next one as well."""


class _Item:
    """A piece of work, and who waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self.deaths = 0
        self._work = work
        self._claimed = threading.Lock()

    def claim(self) -> bool:
        """Whether the work is the caller's to do: it is so once, however often it is queued."""
        return self._claimed.acquire(blocking=False)

    def run(self) -> None:
        """Do the work; what would end the thread is not caught."""
        if not self.deaths and not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._work()
        except Exception as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def again(self) -> _Item | None:
        """The same for another thread, unless it has ended too many."""
        if self.future.done():
            return None
        if self.deaths + 1 >= _ATTEMPTS:
            self.future.set_exception(WorkerDiedError("The work ended its thread twice."))
            return None
        item = _Item(self._work)
        item.future, item.deaths = self.future, self.deaths + 1
        return item


class _WorkerThreads:
    """The threads and what waits for them; they hold on to this, and not to the pool.

    A thread may be ended anywhere between two steps, also with what it has just fetched from the
    queue in no variable yet, or with a lock just taken. So it takes no lock as long as it lives,
    and what waits is known beside the queue as well: after a death all of that is queued again.
    """

    def __init__(self, size: int, name: str, niceness: int) -> None:
        self.size = size
        self.name = name
        self.niceness = niceness
        self.lock = threading.Lock()
        self.queue: SimpleQueue[_Item | None] = SimpleQueue()
        self.waiting: set[_Item] = set()
        self.idle: deque[None] = deque()
        """One for each thread that waits and has not been sent anything."""
        self.threads: set[threading.Thread] = set()
        self.numbers = 0
        self.closed = False

    def add(self, item: _Item) -> None:
        """Queue work, with a thread for it if there may be another."""
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
        # A daemon, so that a forward that nobody waits for does not hold up the process's end.
        thread = threading.Thread(target=self._live, name=name, daemon=True)
        # First started, then known: whoever joins without the lock meets none that has not begun.
        thread.start()
        self.threads.add(thread)

    def _live(self) -> None:
        item: _Item | None = None
        died = True
        try:
            with suppress(OSError):  # it is a matter of manners, not of answers
                be_nice(self.niceness)
            while (item := self._next()) is not None:
                item.run()
                item = None
            died = False
        finally:
            if died:  # otherwise all is closed; it stays known, for `join` to wait until it is gone
                self._replace(item)

    def _next(self) -> _Item | None:
        """What to do; None at the end."""
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
                self.queue.put(None)  # for the others
                if not self.waiting:
                    return None

    def _replace(self, item: _Item | None) -> None:
        """A thread dies, perhaps with an item at hand."""
        again = item.again() if item is not None else None
        with self.lock:
            self.threads.discard(threading.current_thread())
            logger.error("A thread of %s died: another one takes its place", self.name)
            for lost in [*self.waiting, again]:
                if lost is not None:
                    self._put(lost)
            if self.closed:
                self.queue.put(None)  # it may have been the dead thread's to pass on
            if self.waiting or not self.closed:
                self._start()

    def close(self, *, cancel: bool = False) -> None:
        """Let the threads end once their work is done, or what they do now is."""
        with self.lock:
            self.closed = True
            self.queue.put(None)
            dropped = [item for item in self.waiting if item.claim()] if cancel else []
            self.waiting.difference_update(dropped)
        for item in dropped:
            item.future.cancel()

    def join(self, seconds: float | None) -> bool:
        """Wait for the threads; whether all of them ended in time."""
        end = None if seconds is None else time.monotonic() + seconds
        for thread in list(self.threads):
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in list(self.threads))


class WorkerPool(Executor):
    """An executor whose threads are replaced when they die.

    What a dead thread was about to do is done by its successor. What it was doing is tried once
    more, and then fails with `WorkerDiedError`. Threads are started when they are first needed, and
    end when the pool is shut down, or is gone.

    Args:
        size: most threads.
        name: of the threads.
        niceness: of the threads, see `be_nice`.
    """

    def __init__(self, size: int, name: str, niceness: int = 0) -> None:
        self._crew = _WorkerThreads(size, name, niceness)
        _POOLS.add(self._crew)
        weakref.finalize(self, self._crew.close).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue work; see `Executor.submit`."""
        item = _Item(partial(fn, *args, **kwargs))
        self._crew.add(item)
        return item.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work, and end the threads once they are done; see `Executor.shutdown`."""
        self._crew.close(cancel=cancel_futures)
        if wait:
            self._crew.join(None)


_POOLS: weakref.WeakSet[_WorkerThreads] = weakref.WeakSet()


def end_all(seconds: float) -> bool:
    """End the threads of all pools, for the end of the process.

    Args:
        seconds: that they may take to do what they are at.

    Returns:
        Whether they are done. If not, only `os._exit` ends the process safely: the interpreter
        cannot be taken down under a thread that will come back to it.
    """
    end = time.monotonic() + seconds
    crews = list(_POOLS)
    for crew in crews:
        crew.close(cancel=True)
    return all(crew.join(max(0.0, end - time.monotonic())) for crew in crews)


atexit.register(end_all, _END_SECONDS)


def be_nice(niceness: int) -> None:
    """Lower the priority of the calling thread, and of the threads that it will start.

    On Linux alone, where threads have priorities of their own; OpenMP's threads are started by the
    thread that first needs them, so those of a background lane run in the background as well.

    Args:
        niceness: 0 (as it is) to 19.
    """
    if niceness and sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


class Threads:
    """Threads for masks and answers, and others for images, which let those go first.

    Images are read in the background, as encoding them is: masks of others need not wait.

    Args:
        count: of either kind; 0 is one a core, at least two.

    Attributes:
        count: of either kind.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count or max(2, os.cpu_count() or 1)
        self._workers = WorkerPool(self.count, "cpu")
        self._readers = WorkerPool(self.count, "images", BACKGROUND)

    async def run(self, work: Callable[[], T]) -> T:
        """Run CPU work in a worker thread; what it logs is of the caller's request."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, copy_context().run, work)

    async def run_in_background(self, work: Callable[[], T]) -> T:
        """Run CPU work on an image in a thread that lets others go first."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, copy_context().run, work)

    def close(self) -> None:
        """Stop; what waits is dropped."""
        for pool in (self._workers, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)
