"""Settings: the database and the job queue."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings import types
from inference_server.settings.types import EnvironmentSettings


class JobSettings(EnvironmentSettings):
    """The database and the job queue."""

    data_dir: types.DataDirectory = Field(
        types.DATA_DIRECTORY,
        description="Directory of the SQLite database of jobs and keys, created with mode 0700. "
        "Processes with the same directory share jobs and keys.",
    )
    database_url: types.DatabaseUrl = Field(
        "",
        repr=False,
        description="PostgreSQL database for jobs and keys instead of SQLite, such as "
        "`postgresql://user:password@host/name`. Needed for servers on several machines.",
    )
    job_workers: int = Field(
        2,
        ge=0,
        le=64,
        description="Jobs that this process works on at a time; 0 leaves them to other processes.",
    )
    job_reserve_workers: int = Field(
        1,
        ge=0,
        le=64,
        description="Jobs that this process works on beyond `INFERENCE_JOB_WORKERS` when all of "
        "these are busy: only of keys that have no job in progress, so that slow jobs of one key "
        "do not hold up others.",
    )
    job_queue_size: int = Field(
        256,
        ge=1,
        description="Maximum number of unfinished jobs; beyond it, submissions get 429.",
    )
    job_queue_per_key: int = Field(
        64,
        ge=1,
        description="Maximum number of unfinished jobs per key; beyond it, submissions get 429.",
    )
    job_storage_mb: int = Field(
        4096,
        ge=1,
        description="Maximum size in MiB of stored jobs and results; beyond it, submissions get "
        "429, and those that could never fit 413.",
    )
    job_storage_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Part of the job storage that the jobs and results of one key may take, of "
        "what those of other keys leave; beyond it, submissions get 429 and a result fails its "
        "job. 1 lets one key fill it. A submission that could never fit gets 413.",
    )
    job_undo_pending: int = Field(
        1000,
        ge=1,
        description="Maximum number of submissions without a response that wait to be undone while "
        "the database is unavailable; beyond it, submissions get 503.",
    )
    job_result_mb: int = Field(64, ge=1, description="Maximum size of a job's result in MiB.")
    job_retention: float = Field(
        3600.0, gt=0, description="Seconds for which the result of a job is kept."
    )
    job_attempts: int = Field(
        3,
        ge=1,
        description="Maximum number of attempts at a job if servers crash or are overloaded.",
    )
    job_raster_timeout: float = Field(
        86_400.0,
        gt=0,
        description="Seconds that one attempt at a job may take if it segments a raster by "
        "windows. Other jobs have INFERENCE_REQUEST_TIMEOUT.",
    )
    job_progress_interval: float = Field(
        2.0,
        gt=0,
        description="Seconds between two writes of a running job's progress to the database.",
    )
    job_retry_pause: float = Field(
        5.0,
        gt=0,
        description="Seconds before the second attempt at a job; doubles with each attempt.",
    )
    job_lease: float = Field(
        30.0,
        ge=1,
        description="Seconds after which a job of a lost process is started again. With SQLite, a "
        "crashed process is noticed within two seconds.",
    )
