"""All settings: name, type, default and meaning.

A setting is read from the environment variable `INFERENCE_<NAME>`. `docs/settings.md` contains the
same table, generated from this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from inference_server import setting_types as types
from inference_server.setting_types import PREFIX, EnvironmentSettings, variable_of

MiB = 1024 * 1024


class Settings(EnvironmentSettings):
    """The server's settings, from keyword arguments and from the environment."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9001, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Minimum level of log messages."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="Log format: `text`, `json` (one JSON object per line), or `auto` for text on "
        "a terminal and JSON elsewhere.",
    )

    auth: Literal["on", "off"] = Field(
        "on",
        description="`off` disables API keys: all requests share one anonymous tenant.",
    )
    api_keys: types.CommaSeparated = Field(
        (),
        repr=False,
        description="Comma-separated API keys. If there are none, and none in the database, "
        "`serve` generates a key for the run and prints it.",
    )
    api_key_scopes: types.Scopes = Field(
        ("segment", "admin"),
        description="Scopes of the keys in INFERENCE_API_KEYS: `segment`, `admin` or both, "
        "comma-separated.",
    )
    metrics_access: Literal["admin", "open"] = Field(
        "admin",
        description="Who may read `/metrics`: keys with scope `admin`, or everyone (`open`).",
    )
    key_grace: float = Field(
        300.0,
        ge=0,
        description="Seconds for which stored keys stay valid while their database is unavailable; "
        "after that they get 503. Keys in INFERENCE_API_KEYS need no database.",
    )
    redis_url: types.RedisUrl = Field(
        "",
        repr=False,
        description="Redis for the rate limits of several servers, such as "
        "`redis://:password@host:6379/0`. Empty: each server counts on its own.",
    )
    usage_days: int = Field(400, ge=1, description="Days for which usage records of keys are kept.")
    cost_concept: int = Field(
        1, ge=0, description="Credits per concept request (text or exemplar boxes)."
    )
    cost_visual: int = Field(1, ge=0, description="Credits per visual request (points or boxes).")
    cost_automatic: int = Field(
        1, ge=0, description="Credits per automatic request (all objects, without prompts)."
    )
    cost_embed: int = Field(1, ge=0, description="Credits per request that only embeds an image.")
    cors_origins: types.CommaSeparated = Field(
        ("*",), description="Comma-separated CORS origins; `*` allows any."
    )

    sam3_weights: str = Field(
        "demo",
        description="SAM 3 weights: `demo`, a `transformers` directory, or a Hugging Face id such "
        "as `facebook/sam3`.",
    )
    sam2_weights: str = Field(
        "demo",
        description="SAM 2 weights: `demo`, a checkpoint file or a directory of them "
        "(`sam2.1_hiera_large.pt`, …), `facebook` for Meta's Hugging Face repositories, or one "
        "Hugging Face id such as `facebook/sam2.1-hiera-large`.",
    )
    preload: types.CommaSeparated = Field(
        (),
        description="Comma-separated models to load before the server is ready, each as "
        "`version:model_id`, such as `sam2:sam2-hiera-large,sam3:facebook/sam3`. Empty: SAM 3 and "
        "the largest SAM 2.",
    )
    device: types.Device = Field(
        "auto",
        description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` picks the fastest.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of the models: `float32`, `bfloat16`, or `auto` for bfloat16 where "
        "the device computes it fast.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads for the models; 0 means one per core."
    )
    embedding_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of cached image embeddings: `float32`, `bfloat16`, `float16`, or "
        "`auto` for the precision of the models. With 16 bits, twice as many fit.",
    )

    embedding_cache_mb: int = Field(
        0,
        ge=0,
        description="Size of the image embedding cache in MiB; 0 means 2048 on a CPU and 8192 on a "
        "GPU.",
    )
    host_cache_mb: int = Field(
        0,
        ge=0,
        description="Size in MiB of the host memory cache for embeddings evicted from a GPU; 0 "
        "means a quarter of the memory. Not used without a GPU.",
    )
    image_cache_mb: int = Field(
        256,
        ge=0,
        description="Size in MiB of the cache for encoded images that have an `image_id`.",
    )
    logits_cache_mb: int = Field(
        64, ge=0, description="Size in MiB of the cache for low-resolution logits of earlier masks."
    )
    text_cache_entries: int = Field(
        1024, ge=0, description="Maximum number of concepts with a cached text embedding."
    )

    max_connections: int = Field(
        512,
        ge=1,
        description="Maximum number of connections that wait for a request; beyond it, the one "
        "that has waited longest is closed. Connections whose request is being answered do not "
        "count.",
    )
    max_header_kb: int = Field(
        64, ge=1, description="Maximum size of URL and headers of a request in KiB."
    )
    header_timeout: float = Field(
        20.0, gt=0, description="Seconds within which the headers of a request must arrive."
    )
    body_timeout: float = Field(
        120.0,
        gt=0,
        description="Seconds within which the body of a request must arrive; later it gets 408.",
    )
    max_body_mb: int = Field(64, ge=1, description="Maximum size of a request body in MiB.")
    body_memory_mb: int = Field(
        1024,
        ge=1,
        description="Maximum size in MiB of all JSON bodies in progress together; beyond it, "
        "requests get 429.",
    )
    max_json_values: int = Field(
        200_000,
        ge=1,
        description="Maximum number of values in a JSON body, counted by its brackets and commas.",
    )
    max_json_depth: int = Field(
        32, ge=4, le=200, description="Maximum nesting depth of a JSON body."
    )
    max_upload_mb: int = Field(
        128, ge=1, description="Maximum size of a form (image and fields) in MiB."
    )
    upload_storage_mb: int = Field(
        1024,
        ge=1,
        description="Maximum size in MiB of all forms in progress together; beyond it, requests "
        "get 429.",
    )
    max_image_mb: int = Field(
        32,
        ge=1,
        description="Maximum size of an encoded image in MiB; in a form, INFERENCE_MAX_UPLOAD_MB "
        "applies instead.",
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Maximum number of pixels of an image, as its header says."
    )
    max_prompts: int = Field(16, ge=1, description="Maximum number of prompts per concept request.")
    max_visual_prompts: int = Field(
        256, ge=1, description="Maximum number of prompts per visual request."
    )
    max_points: int = Field(1024, ge=1, description="Maximum number of points per prompt.")
    max_boxes: int = Field(64, ge=1, description="Maximum number of exemplar boxes per prompt.")
    max_shapes: int = Field(
        4096,
        ge=1,
        description="Maximum number of points and boxes of all prompts of a request together.",
    )
    max_text_length: int = Field(
        256, ge=1, description="Maximum length of a text prompt in characters."
    )
    max_id_length: int = Field(
        256, ge=1, description="Maximum length of an `image_id` in characters."
    )

    fetch_timeout: float = Field(
        10.0, gt=0, description="Timeout in seconds for fetching an image by URL, in total."
    )
    fetch_redirects: int = Field(
        3, ge=0, le=10, description="Maximum number of redirects when fetching an image."
    )
    fetch_https_only: bool = Field(False, description="Fetch images over `https` only.")
    fetch_hosts: types.HostPatterns = Field(
        (),
        description="Comma-separated hosts from which images may be fetched, such as "
        "`images.example.com`, or `*.example.com` for all subdomains. Empty: any host.",
    )
    fetch_networks: types.Networks = Field(
        (),
        description="Comma-separated private or loopback networks (CIDR) from which images may be "
        "fetched. Public addresses are always allowed.",
    )
    request_timeout: float = Field(
        300.0, gt=0, description="Timeout of a request in seconds; later it gets 504."
    )
    max_requests: int = Field(
        256,
        ge=1,
        description="Maximum number of requests in progress; beyond it, requests get 429. Probes, "
        "metrics and job status requests do not count.",
    )
    queue_size: int = Field(
        64,
        ge=1,
        description="Maximum number of requests that wait for a model; beyond it, requests get "
        "429.",
    )
    drain_seconds: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="Seconds after SIGTERM during which `/readyz` is 503 and requests are still "
        "served, so that load balancers notice. After that, new requests get 503.",
    )
    shutdown_timeout: float = Field(
        25.0,
        ge=0,
        le=3600,
        description="Seconds that requests and jobs in progress have to finish after the drain; "
        "then requests get 503, and jobs return to the queue.",
    )
    encode_batch: int = Field(
        0,
        ge=0,
        description="Maximum number of images per encoder forward pass; 0 means 1 on a CPU and 8 "
        "on a GPU.",
    )
    decode_batch: int = Field(
        0,
        ge=0,
        description="Maximum number of prompts per decoder forward pass; 0 means 1 on a CPU and "
        "32 on a GPU.",
    )
    max_binary_mb: int = Field(
        512,
        ge=1,
        description="Maximum size in MiB, before compression, of the full-size masks in a `binary` "
        "response or as PNGs in JSON.",
    )
    cpu_workers: int = Field(
        0,
        ge=0,
        description="Threads for images and masks; 0 means one per core, and at least two.",
    )

    data_dir: str = Field(
        ".inference-server",
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
        "429.",
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
    public_url: types.PublicUrl = Field(
        "",
        description="URL at which clients reach this server, such as `https://masks.example.com`, "
        "for links to job results. Empty: the address that the client connected to.",
    )
    trusted_proxies: types.Networks = Field(
        (),
        description="Comma-separated networks (CIDR) of proxies whose `X-Forwarded-Proto` and "
        "`X-Forwarded-Host` headers are trusted.",
    )

    cluster_address: str = Field(
        "",
        description="Ray cluster to join, such as `10.0.0.5:6379`, or `auto` for the cluster that "
        "this machine belongs to. Empty: `serve --cluster` starts Ray on this machine.",
    )
    cluster_ingress_replicas: types.ReplicaCount = Field(
        "1",
        description="HTTP ingress replicas: a number, or `MIN-MAX` to scale with the load. Several "
        "on different machines need INFERENCE_DATABASE_URL.",
    )
    cluster_ingress_cpus: float = Field(1.0, ge=0, description="CPUs per ingress replica.")
    cluster_concept_replicas: types.ReplicaCount = Field(
        "1", description="SAM 3 replicas: a number, or `MIN-MAX` to scale with the load."
    )
    cluster_concept_cpus: float = Field(
        1.0,
        ge=0,
        description="CPUs per SAM 3 replica; also its threads, unless INFERENCE_THREADS is set.",
    )
    cluster_concept_gpus: types.GpuShare = Field(
        0.0, ge=0, description="GPUs per SAM 3 replica: a fraction such as 0.5, or a whole number."
    )
    cluster_visual_replicas: types.ReplicaCount = Field(
        "1", description="SAM 2 replicas: a number, or `MIN-MAX` to scale with the load."
    )
    cluster_visual_cpus: float = Field(
        1.0,
        ge=0,
        description="CPUs per SAM 2 replica; also its threads, unless INFERENCE_THREADS is set.",
    )
    cluster_visual_gpus: types.GpuShare = Field(
        0.0, ge=0, description="GPUs per SAM 2 replica: a fraction such as 0.5, or a whole number."
    )
    cluster_ongoing: int = Field(
        16,
        ge=1,
        description="Maximum number of requests in progress per engine replica. Further requests "
        "go to the next replica on the hash ring or wait, up to INFERENCE_QUEUE_SIZE per ingress; "
        "beyond that they get 429.",
    )
    cluster_spill: int = Field(
        1,
        ge=0,
        description="Additional replicas that may serve an image while its own has "
        "INFERENCE_CLUSTER_ONGOING requests in progress; each of them encodes the image again.",
    )
    cluster_patience: float = Field(
        20.0,
        gt=0,
        description="Seconds that a request waits for an available replica; then it gets 503. Must "
        "be less than INFERENCE_SHUTDOWN_TIMEOUT, after which Ray stops an ingress that still has "
        "requests.",
    )
    cluster_target: float = Field(
        4.0,
        gt=0,
        description="Requests in progress per replica that autoscaling aims for, between MIN and "
        "MAX.",
    )


def misspelled(variables: Iterable[str]) -> dict[str, str | None]:
    """Find variables that begin with `INFERENCE_` and are not a setting.

    Args:
        variables: names of environment variables.

    Returns:
        Each such variable with the most similar setting's variable, or None.
    """
    known = {name.upper() for name in Settings.model_fields}
    found: dict[str, str | None] = {}
    for variable in sorted(v for v in variables if v.startswith(PREFIX)):
        name = variable.removeprefix(PREFIX)
        if name.upper() not in known:
            close = difflib.get_close_matches(name, known, 1)
            found[variable] = variable_of(close[0]) if close else None
    return found
