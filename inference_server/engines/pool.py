"""Threads that are replaced when they die.

The standard library's `ThreadPoolExecutor` counts a dead thread among the living: what it was about
to do, or did, is never answered. And what ends a thread there, such as a library that calls
`sys.exit`, comes out of the future that somebody awaits, and ends the event loop.
"""

from __future__ import annotations

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
from functools import partial
from typing import Any, ParamSpec, TypeVar

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

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
        self._work = work
        self._begun = 0

    def run(self) -> None:
        """Do the work; what would end the thread is not caught."""
        if not self._begun and not self.future.set_running_or_notify_cancel():
            return
        self._begun += 1
        try:
            result = self._work()
        except Exception as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    @property
    def is_lost(self) -> bool:
        """It may not be tried again."""
        return self._begun >= _ATTEMPTS

    def fail(self) -> None:
        """Tell whoever waits that the work ends threads."""
        if not self.future.done():
            self.future.set_exception(WorkerDiedError("The work ended its thread twice."))


class _Crew:
    """The threads and what waits for them; they hold on to this, and not to the pool."""

    def __init__(self, size: int, name: str, niceness: int) -> None:
        self.size = size
        self.name = name
        self.niceness = niceness
        self.ready = threading.Condition()
        self.items: deque[_Item] = deque()
        self.threads: set[threading.Thread] = set()
        self.idle = 0
        self.numbers = 0
        self.closed = False

    def add(self, item: _Item) -> None:
        """Queue work, with a thread for it if there may be another."""
        with self.ready:
            if self.closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self.items.append(item)
            if self.idle < len(self.items) and len(self.threads) < self.size:
                self._start()
            self.ready.notify()

    def _start(self) -> None:
        name = f"{self.name}_{self.numbers}"
        self.numbers += 1
        # A daemon, so that a forward that nobody waits for does not hold up the process's end.
        thread = threading.Thread(target=self._live, name=name, daemon=True)
        self.threads.add(thread)
        thread.start()

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
            self._left(item, died=died)

    def _next(self) -> _Item | None:
        """What to do; None at the end."""
        with self.ready:
            self.idle += 1
            try:
                while not self.items and not self.closed:
                    self.ready.wait()
            finally:
                self.idle -= 1
            return self.items.popleft() if self.items else None

    def _left(self, item: _Item | None, *, died: bool) -> None:
        """A thread ends: because all is closed, or because it dies."""
        with self.ready:
            self.threads.discard(threading.current_thread())
            if died:
                logger.error("A thread of %s died: another one takes its place", self.name)
                if item is not None and not item.is_lost:
                    self.items.appendleft(item)
                if self.items or not self.closed:
                    self._start()
        if item is not None and item.is_lost:
            item.fail()

    def close(self, *, cancel: bool = False) -> None:
        """Let the threads end once their work is done, or what they do now is."""
        with self.ready:
            self.closed = True
            dropped = list(self.items) if cancel else []
            if cancel:
                self.items.clear()
            self.ready.notify_all()
        for item in dropped:
            item.future.cancel()

    def join(self, seconds: float | None) -> bool:
        """Wait for the threads; whether all of them ended in time."""
        end = None if seconds is None else time.monotonic() + seconds
        for thread in list(self.threads):
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not self.threads


class Pool(Executor):
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
        self._crew = _Crew(size, name, niceness)
        _CREWS.add(self._crew)
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


_CREWS: weakref.WeakSet[_Crew] = weakref.WeakSet()


def end_all(seconds: float) -> bool:
    """End the threads of all pools, for the end of the process.

    Args:
        seconds: that they may take to do what they are at.

    Returns:
        Whether they are done. If not, only `os._exit` ends the process safely: the interpreter
        cannot be taken down under a thread that will come back to it.
    """
    end = time.monotonic() + seconds
    crews = list(_CREWS)
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
