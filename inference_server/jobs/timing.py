"""Intervals of the job queue and its workers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobTiming:
    """Intervals, in seconds except for `renewals`.

    Attributes:
        open_timeout: how long a start waits for the database before it continues without it.
        open_pause: longest pause before another attempt to open the database.
        poll: how often an idle worker looks for jobs that other processes accepted, or whose
            retry is due. Jobs that this process accepts wake a worker at once.
        error_pause: pause after an error of the database or of a background task; doubles up to
            `error_pause_most` while the task fails.
        error_pause_most: longest such pause.
        renewals: how often a worker renews its lease within the length of one lease.
        watch: how often jobs of crashed processes are requeued, and how often a worker looks
            whether its job was cancelled by another process.
        purge: how often expired jobs are deleted.
        purge_step: pause between two steps of a purge, in which other processes can write.
    """

    open_timeout: float = 5.0
    open_pause: float = 10.0
    poll: float = 1.0
    error_pause: float = 1.0
    error_pause_most: float = 5.0
    renewals: int = 3
    watch: float = 1.0
    purge: float = 30.0
    purge_step: float = 0.5


DEFAULT_TIMING = JobTiming()
