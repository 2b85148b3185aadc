"""Database tables of API keys and their usage."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, LargeBinary, String, Table

from inference_server.database import METADATA

KEYS = Table(
    "inference_keys",
    METADATA,
    Column("id", String(12), primary_key=True),
    Column("name", String(64), nullable=False),
    # Null if the key has a tenant of its own.
    Column("tenant", String(48)),
    Column("salt", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", String(64), nullable=False),
    Column("rate", String(64)),
    # Null if the key has no credit balance, so that requests are not charged.
    Column("credits", BigInteger),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
)
USAGE = Table(
    "inference_key_usage",
    METADATA,
    # Id of a stored key, or tenant name of a key in the settings.
    Column("key_id", String(32), primary_key=True),
    # UTC date, such as 2026-01-31.
    Column("day", String(10), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("credits", BigInteger, nullable=False),
)
