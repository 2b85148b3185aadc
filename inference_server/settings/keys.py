"""Settings: API keys, credits and browser access."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from inference_server.settings import types
from inference_server.settings.types import EnvironmentSettings


class KeySettings(EnvironmentSettings):
    """API keys, credits and browser access."""

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
    usage_pending: int = Field(
        100_000,
        ge=1,
        description="Maximum number of records (one per key and day) of usage, and as many of "
        "refunds, that wait in memory while the database is unavailable; more are lost.",
    )
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
