"""Every setting, once: its name, default and meaning.

A setting is read from the environment as `INFERENCE_<NAME>`; `docs/settings.md` holds the same
tables, and a test keeps the two equal.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MiB = 1024 * 1024
PREFIX = "INFERENCE_"

Scope = Literal["segment", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What keys may do: `segment` is for images and jobs, `admin` for the server itself."""


class SettingsError(Exception):
    """Settings have values that they cannot have; the message names each as a variable."""


class Settings(BaseSettings):
    """The server's settings.

    Raises:
        SettingsError: a value that cannot be.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9001, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log message to print."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="Form of the log: `text` for people, `json` for machines, a JSON object a "
        "line, or `auto`, which is text on a terminal and JSON elsewhere.",
    )

    auth: Literal["on", "off"] = Field(
        "on", description="`off` serves one anonymous tenant without any key."
    )
    api_keys: Annotated[str, NoDecode] = Field(
        "",
        repr=False,
        description="Comma-separated keys that may call the server. Without them, and without "
        "stored ones, `serve` makes one for the run and prints it.",
    )
    api_key_scopes: str = Field(
        "segment,admin",
        description="What the keys of INFERENCE_API_KEYS may do: `segment`, `admin` or both, "
        "separated by commas.",
    )
    metrics_access: Literal["admin", "open"] = Field(
        "admin", description="Who may read `/metrics`: keys of the scope `admin`, or `open`: all."
    )
    key_grace: float = Field(
        300.0,
        ge=0,
        description="Seconds for which stored keys go on working while their database cannot be "
        "read; after that they get 503. Keys of INFERENCE_API_KEYS need no database.",
    )
    redis_url: str = Field(
        "",
        repr=False,
        description="Redis that counts the rates of keys for several servers, such as "
        "`redis://:password@host:6379/0`. Empty: each server counts for itself.",
    )
    usage_days: int = Field(400, ge=1, description="Days for which the usage of keys is kept.")
    cost_concept: int = Field(
        1, ge=0, description="Credits of a request for concepts: words, or boxes around examples."
    )
    cost_visual: int = Field(
        1, ge=0, description="Credits of a request for objects by clicks and boxes."
    )
    cost_automatic: int = Field(1, ge=0, description="Credits of a request for everything.")
    cost_embed: int = Field(1, ge=0, description="Credits of encoding an image ahead of time.")
    cors_origins: str = Field(
        "*", description="Comma-separated origins that browsers may call from; `*` is any."
    )

    sam3_weights: str = Field(
        "demo",
        description="SAM 3 weights: `demo`, a `transformers` directory, or a Hugging Face id such "
        "as `facebook/sam3`.",
    )
    sam2_weights: str = Field(
        "demo",
        description="SAM 2 weights: `demo`, a file or directory of published files "
        "(`sam2.1_hiera_large.pt`, …), `facebook` for the published repositories, or one "
        "Hugging Face id such as `facebook/sam2.1-hiera-large`.",
    )
    preload: str = Field(
        "",
        description="Comma-separated models to load before the server is ready, each as "
        "`version:model_id`, such as `sam2:sam2-hiera-large,sam3:facebook/sam3`. Empty: SAM 3 and "
        "the largest SAM 2.",
    )
    device: str = Field(
        "auto",
        description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` takes the fastest.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the models: `float32`, `bfloat16`, or `auto`, which is bfloat16 "
        "where the device is fast at it.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads for the models; 0 is one a core."
    )
    embedding_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="What image embeddings are kept in: `float32`, `bfloat16`, `float16`, or "
        "`auto`, which is what the models compute in. In 16 bits twice as many fit.",
    )

    embedding_cache_mb: int = Field(
        0,
        ge=0,
        description="Room for image embeddings in MiB; 0 is 2048 on a CPU and 8192 on a GPU.",
    )
    host_cache_mb: int = Field(
        0,
        ge=0,
        description="Room in MiB of host memory for embeddings that leave a GPU; 0 is a quarter of "
        "the memory. Without a GPU there is no such second tier.",
    )
    image_cache_mb: int = Field(
        256, ge=0, description="Room in MiB for the encoded bytes of images that have an id."
    )
    logits_cache_mb: int = Field(
        64, ge=0, description="Room in MiB for low-resolution logits kept for later clicks."
    )
    text_cache_entries: int = Field(
        1024, ge=0, description="How many concepts keep their text embedding."
    )

    max_connections: int = Field(
        512,
        ge=1,
        description="Connections; of more, those that have waited longest for a request to come "
        "in are closed. Those whose requests are being answered do not count.",
    )
    max_header_kb: int = Field(
        64, ge=1, description="Largest head of a request, its URL and its headers, in KiB."
    )
    header_timeout: float = Field(
        20.0, gt=0, description="Seconds that the head of a request may take to arrive."
    )
    body_timeout: float = Field(
        120.0,
        gt=0,
        description="Seconds that the body of a request may take to arrive; a slower one is "
        "answered with 408.",
    )
    max_body_mb: int = Field(64, ge=1, description="Largest request body in MiB.")
    body_memory_mb: int = Field(
        1024,
        ge=1,
        description="Most MiB of all JSON bodies that are being read and answered; more get 429.",
    )
    max_json_values: int = Field(
        200_000,
        ge=1,
        description="Most values in a JSON body, counted by the brackets and commas in it.",
    )
    max_json_depth: int = Field(
        32, ge=4, le=200, description="Most levels of lists and objects in a JSON body."
    )
    max_upload_mb: int = Field(
        128, ge=1, description="Largest upload of a form, an image and its fields, in MiB."
    )
    upload_storage_mb: int = Field(
        1024,
        ge=1,
        description="Most MiB of all uploads that are being answered; more get 429.",
    )
    max_image_mb: int = Field(
        32, ge=1, description="Largest encoded image in MiB; in a form, the upload's bound holds."
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Most pixels an image may have, read from its header."
    )
    max_prompts: int = Field(16, ge=1, description="Most prompts in a concept request.")
    max_visual_prompts: int = Field(256, ge=1, description="Most prompts in a visual request.")
    max_points: int = Field(1024, ge=1, description="Most points in one prompt.")
    max_boxes: int = Field(64, ge=1, description="Most exemplar boxes in one prompt.")
    max_shapes: int = Field(
        4096, ge=1, description="Most points and boxes of all prompts of a request together."
    )
    max_text_length: int = Field(256, ge=1, description="Longest text of a prompt in characters.")
    max_id_length: int = Field(256, ge=1, description="Longest `image_id` in characters.")

    fetch_timeout: float = Field(
        10.0, gt=0, description="Seconds that fetching an image by URL may take in all."
    )
    fetch_redirects: int = Field(3, ge=0, le=10, description="Most redirects when fetching.")
    fetch_https_only: bool = Field(False, description="Fetch images by `https` alone.")
    fetch_hosts: str = Field(
        "",
        description="Comma-separated hosts that images may be fetched from, such as "
        "`images.example.com`, or `*.example.com` for all below; empty is any.",
    )
    fetch_networks: str = Field(
        "",
        description="Comma-separated networks (CIDR) that images may be fetched from although they "
        "are private or loopback; public addresses are always allowed.",
    )
    request_timeout: float = Field(
        300.0, gt=0, description="Seconds after which a request is answered with 504."
    )
    max_requests: int = Field(
        256,
        ge=1,
        description="Requests that are answered at a time; more get 429. Probes, metrics and what "
        "is asked about jobs are not counted.",
    )
    queue_size: int = Field(
        64, ge=1, description="Requests that may wait for a model; more are answered with 429."
    )
    drain_seconds: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="Seconds after SIGTERM during which `/readyz` is 503 and requests are answered "
        "all the same: as long as load balancers take to notice. Then new work gets 503.",
    )
    shutdown_timeout: float = Field(
        25.0,
        ge=0,
        le=3600,
        description="Seconds that requests and jobs under way have after that; what is not done "
        "then is answered with 503, and jobs go back into the queue.",
    )
    encode_batch: int = Field(
        0, ge=0, description="Most images encoded in one forward; 0 is 1 on a CPU and 8 on a GPU."
    )
    decode_batch: int = Field(
        0, ge=0, description="Most prompts decoded in one forward; 0 is 1 on a CPU and 32 on a GPU."
    )
    max_binary_mb: int = Field(
        512,
        ge=1,
        description="Most MiB of full-size masks in one `binary` answer, or of the rows that masks "
        "as PNGs in JSON reach, before compression.",
    )
    cpu_workers: int = Field(
        0, ge=0, description="Threads for images and masks; 0 is one a core, at least two."
    )

    data_dir: str = Field(
        ".inference-server",
        description="Directory of the SQLite database of jobs and keys, made with mode 0700. "
        "Processes that share it share both.",
    )
    database_url: str = Field(
        "",
        repr=False,
        description="PostgreSQL database for jobs and keys in place of SQLite, such as "
        "`postgresql://user:password@host/name`; for servers on several machines.",
    )
    job_workers: int = Field(
        2, ge=0, le=64, description="Jobs worked on at a time; 0 leaves them to other processes."
    )
    job_queue_size: int = Field(
        256, ge=1, description="Unfinished jobs in all; more are answered with 429."
    )
    job_queue_per_key: int = Field(
        64, ge=1, description="Unfinished jobs of one key; more are answered with 429."
    )
    job_storage_mb: int = Field(
        4096,
        ge=1,
        description="Most MiB of jobs and results that are kept; more are answered with 429.",
    )
    job_result_mb: int = Field(64, ge=1, description="Largest result of one job in MiB.")
    job_retention: float = Field(
        3600.0, gt=0, description="Seconds for which the result of a job is kept."
    )
    job_attempts: int = Field(
        3, ge=1, description="How often a job is tried when servers die or are overloaded."
    )
    job_retry_pause: float = Field(
        5.0, gt=0, description="Seconds before a job's second attempt, twice as many each time."
    )
    job_lease: float = Field(
        30.0,
        ge=1,
        description="Seconds after which a job of a process that was lost is begun anew; with "
        "SQLite a dead process is noticed within two.",
    )
    public_url: str = Field(
        "",
        description="Address that clients know this server by, such as "
        "`https://masks.example.com`, for the links of jobs. Empty: the address that a client "
        "connected to.",
    )
    trusted_proxies: str = Field(
        "",
        description="Comma-separated networks (CIDR) of proxies whose `X-Forwarded-Proto` and "
        "`X-Forwarded-Host` are believed.",
    )

    cluster_address: str = Field(
        "",
        description="Ray cluster to join, such as `10.0.0.5:6379`, or `auto` for the one that this "
        "machine belongs to. Empty: `serve --cluster` starts Ray on this machine.",
    )
    cluster_ingress_replicas: str = Field(
        "1",
        description="Replicas that take HTTP: a number, or `MIN-MAX` for as many as the load "
        "needs. More than one on several machines take INFERENCE_DATABASE_URL.",
    )
    cluster_ingress_cpus: float = Field(
        1.0, ge=0, description="CPUs that Ray keeps for a replica that takes HTTP."
    )
    cluster_concept_replicas: str = Field(
        "1", description="Replicas of SAM 3: a number, or `MIN-MAX`."
    )
    cluster_concept_cpus: float = Field(
        1.0, ge=0, description="CPUs of a replica of SAM 3; as many threads, unless set otherwise."
    )
    cluster_concept_gpus: float = Field(
        0.0, ge=0, description="GPUs of a replica of SAM 3: 1, or a part such as 0.5; 0 is none."
    )
    cluster_visual_replicas: str = Field(
        "1", description="Replicas of SAM 2: a number, or `MIN-MAX`."
    )
    cluster_visual_cpus: float = Field(
        1.0, ge=0, description="CPUs of a replica of SAM 2; as many threads, unless set otherwise."
    )
    cluster_visual_gpus: float = Field(
        0.0, ge=0, description="GPUs of a replica of SAM 2: 1, or a part such as 0.5; 0 is none."
    )
    cluster_ongoing: int = Field(
        16,
        ge=1,
        description="Requests that a replica of an engine works at; more go to the next one on the "
        "ring, or wait: as many as INFERENCE_QUEUE_SIZE for each ingress, beyond that it is 429.",
    )
    cluster_spill: int = Field(
        1,
        ge=0,
        description="Further replicas that an image's requests may go to when its own has "
        "INFERENCE_CLUSTER_ONGOING under way; each of them encodes the image once more.",
    )
    cluster_patience: float = Field(
        20.0,
        gt=0,
        description="Seconds that a request waits until a replica of its engine is there and free; "
        "then it is answered with 503. To be less than INFERENCE_SHUTDOWN_TIMEOUT, after which Ray "
        "ends an ingress that still has requests.",
    )
    cluster_target: float = Field(
        4.0,
        gt=0,
        description="Requests under way for each replica that the number of replicas is to come "
        "to, between MIN and MAX.",
    )

    @field_validator("device")
    @classmethod
    def _is_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise PydanticCustomError("device", "Input should be auto, cpu, cuda, cuda:N or mps")
        return value

    @field_validator("api_key_scopes")
    @classmethod
    def _are_scopes(cls, value: str) -> str:
        parts = {part.strip() for part in value.split(",")} - {""}
        if not parts or parts - set(SCOPES):
            raise PydanticCustomError("scopes", "Input should be segment, admin, or both")
        return ",".join(sorted(parts, reverse=True))

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str) -> str:
        if value and not re.match(r"rediss?://", value):
            raise PydanticCustomError("redis", "Input should begin with redis:// or rediss://")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: str) -> str:
        if value and not re.match(r"postgres(ql)?(\+psycopg)?://", value):
            raise PydanticCustomError("database", "Input should begin with postgresql://")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        value = value.rstrip("/")
        if value and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
            raise PydanticCustomError("address", "Input should be like https://masks.example.com")
        return value

    @field_validator("fetch_hosts")
    @classmethod
    def _are_hosts(cls, value: str) -> str:
        for part in parts_of(value):
            if not re.fullmatch(r"(\*\.)?[^\s*/:@?#\[\]]+", part) and not is_address(part):
                raise PydanticCustomError(
                    "host",
                    "{part} should be like images.example.com or *.example.com, without scheme, "
                    "port and path",
                    {"part": part},
                )
        return value

    @field_validator("fetch_networks", "trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for part in parts_of(value):
            try:
                ip_network(part)
            except ValueError as error:
                raise PydanticCustomError("network", "{why}", {"why": str(error)}) from None
        return value

    @field_validator("cluster_concept_gpus", "cluster_visual_gpus")
    @classmethod
    def _are_gpus(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise PydanticCustomError("gpus", "Input should be a part of one GPU, or whole")
        return value

    @field_validator(
        "cluster_ingress_replicas", "cluster_concept_replicas", "cluster_visual_replicas"
    )
    @classmethod
    def _are_replicas(cls, value: str) -> str:
        if not re.fullmatch(r"\d{1,5}(-\d{1,5})?", value) or not bounds_of(value)[0] >= 1:
            raise PydanticCustomError("replicas", "Input should be like 2, or 1-8")
        least, most = bounds_of(value)
        if most < least:
            raise PydanticCustomError("replicas", "MIN should not be more than MAX, as in 1-8")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _names_the_variables(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise SettingsError(
                "\n".join(
                    f"{variable_of(str(item['loc'][0]))}={_shown(item)}: {item['msg']}"
                    for item in error.errors(include_url=False)
                )
            ) from None


def _shown(item: ErrorDetails) -> object:
    """The value of a mistake, unless it is a secret."""
    field = Settings.model_fields[str(item["loc"][0])]
    return item["input"] if field.repr else "…"


def parts_of(text: str) -> list[str]:
    """The parts of a comma-separated setting, without the empty ones."""
    return [part.strip() for part in text.split(",") if part.strip()]


def is_address(text: str) -> bool:
    """Whether a text is an IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def variable_of(name: str) -> str:
    """The environment variable that a setting is read from."""
    return PREFIX + name.upper()


def misspelled(variables: Iterable[str]) -> dict[str, str | None]:
    """Variables that look like settings and are none.

    Args:
        variables: names of environment variables.

    Returns:
        The setting that each was probably meant to be, or None.
    """
    known = {name.upper() for name in Settings.model_fields}
    found: dict[str, str | None] = {}
    for variable in sorted(v for v in variables if v.startswith(PREFIX)):
        name = variable.removeprefix(PREFIX)
        if name.upper() not in known:
            close = difflib.get_close_matches(name, known, 1)
            found[variable] = variable_of(close[0]) if close else None
    return found


def bounds_of(replicas: str) -> tuple[int, int]:
    """The least and most replicas that a setting means: (2, 2) of `2`, (1, 8) of `1-8`."""
    least, _, most = replicas.partition("-")
    return int(least), int(most or least)
