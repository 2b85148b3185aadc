"""Base class and types of settings: how the environment is parsed and validated."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DATA_DIRECTORY = ".inference-server"
"""Default of the setting `data_dir`."""

PREFIX = "INFERENCE_"

Scope = Literal["segment", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Scopes of API keys: `segment` allows images and jobs, `admin` managing the server."""


_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


def _split(value: object) -> object:
    """Split a comma-separated string and drop empty parts; return other values unchanged."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _scopes(value: object) -> object:
    parts = _split(value)
    if not isinstance(parts, list | tuple | set) or not parts or set(parts) - set(SCOPES):
        raise PydanticCustomError("scopes", "Input should be segment, admin, or both")
    return tuple(scope for scope in SCOPES if scope in parts)


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise PydanticCustomError("device", "Input should be auto, cpu, cuda, cuda:N or mps")
    return value


def _redis_url(value: str) -> str:
    if value and not re.match(r"rediss?://", value):
        raise PydanticCustomError("redis", "Input should begin with redis:// or rediss://")
    return value


def _database_url(value: str) -> str:
    if value and not re.match(r"postgres(ql)?(\+psycopg)?://", value):
        raise PydanticCustomError("database", "Input should begin with postgresql://")
    return value


def _public_url(value: str) -> str:
    value = value.rstrip("/")
    if value and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise PydanticCustomError("address", "Input should be like https://masks.example.com")
    return value


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    for part in value:
        if not re.fullmatch(r"(\*\.)?[^\s*/:@?#\[\]]+", part) and not _is_address(part):
            raise PydanticCustomError(
                "host",
                "{part} should be like images.example.com or *.example.com, without scheme, "
                "port or path",
                {"part": part},
            )
    return value


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for part in value:
        try:
            ip_network(part)
        except ValueError as error:
            raise PydanticCustomError("network", "{why}", {"why": str(error)}) from None
    return value


def _replicas(value: str) -> str:
    if not re.fullmatch(r"\d{1,5}(-\d{1,5})?", value) or replica_bounds(value)[0] < 1:
        raise PydanticCustomError("replicas", "Input should be like 2 or 1-8")
    least, most = replica_bounds(value)
    if most < least:
        raise PydanticCustomError("replicas", "MIN should not be greater than MAX, as in 1-8")
    return value


def _gpus(value: float) -> float:
    if value > 1 and not value.is_integer():
        raise PydanticCustomError("gpus", "Input should be a fraction of one GPU or a whole number")
    return value


def _named_models(value: object) -> object:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError:
            value = None
    names = value if isinstance(value, dict) else [""]
    # Names are values of headers.
    if not all(isinstance(name, str) and _MODEL_NAME.fullmatch(name) for name in names):
        raise PydanticCustomError(
            "models",
            'Input should be a JSON object of names (letters, digits and "._/-") to weights, such '
            'as {"crops/3": "/models/crops"}',
        )
    return value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A list of strings; the environment holds it as comma-separated text, not as JSON."""

NamedModels = Annotated[dict[str, str], NoDecode, BeforeValidator(_named_models)]
"""Weights by the names that requests use; the environment holds them as a JSON object."""

Scopes = Annotated[tuple[Scope, ...], NoDecode, BeforeValidator(_scopes)]
"""At least one scope, in the order of `SCOPES`."""

HostPatterns = Annotated[CommaSeparated, AfterValidator(_hosts)]
"""Host names, addresses, and patterns such as `*.example.com`."""

Networks = Annotated[CommaSeparated, AfterValidator(_networks)]
"""IP networks in CIDR notation."""

Device = Annotated[str, AfterValidator(_device)]
"""A torch device, or `auto`."""

RedisUrl = Annotated[str, AfterValidator(_redis_url)]
"""A Redis URL, or an empty string."""

DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
"""A PostgreSQL URL, or an empty string."""

DataDirectory = Annotated[str, BeforeValidator(lambda value: value or DATA_DIRECTORY)]
"""A directory; empty is the default."""

PublicUrl = Annotated[str, AfterValidator(_public_url)]
"""An HTTP URL without trailing slash, or an empty string."""

ReplicaCount = Annotated[str, AfterValidator(_replicas)]
"""A number of replicas such as `2`, or a range such as `1-8`; see `replica_bounds`."""

GpuShare = Annotated[float, AfterValidator(_gpus)]
"""GPUs of a replica: a fraction of one, or a whole number."""


def replica_bounds(replicas: str) -> tuple[int, int]:
    """Return the minimum and maximum number of replicas.

    Args:
        replicas: a valid `ReplicaCount`; `2` returns (2, 2), `1-8` returns (1, 8).
    """
    least, _, most = replicas.partition("-")
    return int(least), int(most or least)


class SettingsError(Exception):
    """Settings have invalid values; the message names each environment variable."""


class EnvironmentSettings(BaseSettings):
    """Settings from the environment whose errors name the environment variables.

    Raises:
        SettingsError: If a value is invalid.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_variables(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise SettingsError(
                "\n".join(
                    f"{variable_of(str(item['loc'][0]))}={cls._shown(item)}: {item['msg']}"
                    for item in error.errors(include_url=False)
                )
            ) from None

    @classmethod
    def _shown(cls, item: ErrorDetails) -> object:
        """Return the invalid value, or `…` in place of a secret."""
        field = cls.model_fields[str(item["loc"][0])]
        return item["input"] if field.repr else "…"


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()
