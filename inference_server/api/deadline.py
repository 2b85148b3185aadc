"""The time that a request has."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from inference_server.errors import DeadlineError

_LESS_BUSY = "Try again when the server is less busy"


class Deadline:
    """Cancels the request's work when its time is up, with a `TimeoutError`; a context manager.

    Args:
        seconds: the time from the beginning.
        setting: environment variable that sets it, for the error message.
    """

    def __init__(self, seconds: float, setting: str) -> None:
        self._seconds = seconds
        self._setting = setting
        self._instead = _LESS_BUSY
        self._begin = asyncio.get_running_loop().time()
        self._timeout = asyncio.timeout_at(self._begin + seconds)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._timeout.__aexit__(kind, error, trace)

    def extend(self, seconds: float, setting: str, instead: str = _LESS_BUSY) -> None:
        """Give the request more time, if that is more.

        Args:
            seconds: the time from the beginning.
            setting: environment variable that sets it.
            instead: what to do if it is not enough, for the error message. Default: try again.
        """
        if seconds > self._seconds and not self._timeout.expired():
            self._seconds, self._setting, self._instead = seconds, setting, instead
            self._timeout.reschedule(self._begin + seconds)

    @property
    def error(self) -> DeadlineError:
        """The error of a request that took longer."""
        return DeadlineError(
            f"The request took longer than {self._seconds:g} seconds. {self._instead}, or raise "
            f"{self._setting}."
        )
