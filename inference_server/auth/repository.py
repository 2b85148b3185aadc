"""API keys in the database, with their credit balances and usage."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from inference_server.auth.keys import Key, Tenant, generate_stored_key, salted_digest
from inference_server.auth.models import KEYS, USAGE
from inference_server.auth.rate_limit import parse_rate
from inference_server.database import Database, fact, set_fact
from inference_server.errors import CreditsError
from inference_server.settings.types import SCOPES, Scope

_CHANGE = "keys"
"""Name of the fact that holds the keys' version, replaced on every change but that of credits."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key in the database.

    Attributes:
        id: 12 hexadecimal digits, which are also part of the key.
        name: label for people; not unique.
        tenant: name of a tenant that several keys share; None if the key has one of its own.
        scopes: the operations that it permits.
        rate: rate limits as text, such as `10/s; 5000/day`; None for unlimited.
        credits: remaining credits; None if requests are not charged.
        created: creation time in seconds since 1970.
        expires: expiry time in seconds since 1970; None if it does not expire.
        revoked: revocation time in seconds since 1970; None if it is not revoked.
    """

    id: str
    name: str
    tenant: str | None
    scopes: tuple[Scope, ...]
    rate: str | None
    credits: int | None
    created: float
    expires: float | None
    revoked: float | None

    @property
    def state(self) -> Literal["active", "expired", "revoked"]:
        """Whether the key is accepted now, and otherwise why not."""
        if self.revoked is not None:
            return "revoked"
        over = self.expires is not None and self.expires <= time.time()
        return "expired" if over else "active"

    @property
    def key(self) -> Key:
        """The key's permissions and limits, as request handlers need them."""
        # Tenant names of keys in the settings have no slash, so the two kinds cannot collide.
        tenant = f"tenant/{self.tenant}" if self.tenant else f"key/{self.id}"
        rates = parse_rate(self.rate) if self.rate else ()
        scopes = frozenset(self.scopes)
        return Key(self.id, Tenant(tenant), scopes, rates, self.credits is not None)


@dataclass(frozen=True, slots=True)
class Secret:
    """What is needed to authenticate a stored key.

    Attributes:
        salt: random bytes of the digest.
        digest: salted digest of the key.
        stored: the key's record.
        key: its permissions and limits.
    """

    salt: bytes
    digest: bytes
    stored: StoredKey
    key: Key

    def is_of(self, candidate: str) -> bool:
        """Compare a key in plain text with the digest, in constant time."""
        return hmac.compare_digest(self.digest, salted_digest(candidate, self.salt))


@dataclass(frozen=True, slots=True)
class Usage:
    """A key's usage on one day.

    Attributes:
        key_id: id of a stored key, or tenant name of a key in the settings.
        day: UTC date, such as `2026-01-31`.
        requests: number of segmentation requests.
        failures: number of those that failed.
        credits: their cost in credits, less refunds.
    """

    key_id: str
    day: str
    requests: int = 0
    failures: int = 0
    credits: int = 0


@dataclass(frozen=True, slots=True)
class Charge:
    """A request's cost.

    Attributes:
        key_id: id of the key that pays.
        credits: cost in credits.
        day: UTC date of the request, such as `2026-01-31`.
    """

    key_id: str
    credits: int
    day: str


def day_of(moment: datetime | None = None) -> str:
    """Return the UTC date of a time, such as `2026-01-31`. Default: now."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%d")


def take(connection: Connection, charge: Charge) -> int | None:
    """Charge a key, and record the usage.

    Args:
        connection: in a transaction, which rolls back if the credits are insufficient.
        charge: the cost.

    Returns:
        The remaining credits; None if the key has no credit balance.

    Raises:
        CreditsError: the key has insufficient credits.
    """
    mine = KEYS.c.id == charge.key_id
    left = connection.execute(
        # One statement, so that concurrent requests cannot spend the same credits.
        update(KEYS)
        .where(mine, KEYS.c.credits >= charge.credits)
        .values(credits=KEYS.c.credits - charge.credits)
        .returning(KEYS.c.credits)
    ).scalar_one_or_none()
    if left is None:
        has = connection.execute(select(KEYS.c.credits).where(mine)).scalar_one_or_none()
        if has is not None:
            raise CreditsError(
                f"Insufficient credits: this request costs {charge.credits}, and the API key has "
                f"{has} left."
            )
    _add(connection, [Usage(charge.key_id, charge.day, credits=charge.credits)])
    return left


def give_back(connection: Connection, charge: Charge) -> None:
    """Refund a charge.

    Args:
        connection: in a transaction.
        charge: the charge. If the key has lost its credit balance since, only usage is corrected.
    """
    connection.execute(
        update(KEYS)
        .where(KEYS.c.id == charge.key_id)
        .values(credits=KEYS.c.credits + charge.credits)
    )
    _add(connection, [Usage(charge.key_id, charge.day, credits=-charge.credits)])


def _add(connection: Connection, used: Iterable[Usage]) -> None:
    """Add to the usage of keys."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for each in used:
        row = dialect.insert(USAGE).values(
            key_id=each.key_id,
            day=each.day,
            requests=each.requests,
            failures=each.failures,
            credits=each.credits,
        )
        added = {
            name: USAGE.c[name] + row.excluded[name] for name in ("requests", "failures", "credits")
        }
        connection.execute(
            row.on_conflict_do_update(index_elements=[USAGE.c.key_id, USAGE.c.day], set_=added)
        )


class KeyRepository:
    """Stores keys and usage. Every method blocks, so call it in a worker thread or a command.

    Args:
        database: holds the keys.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        *,
        tenant: str | None = None,
        scopes: Sequence[Scope] = SCOPES[:1],
        rate: str | None = None,
        credits: int | None = None,  # noqa: A002 - the field's term
        expires: float | None = None,
    ) -> tuple[str, StoredKey]:
        """Create a key.

        Args:
            name: label for people; not unique.
            tenant: name of a tenant that several keys share. Default: one of its own.
            scopes: the operations that it permits. Default: `segment`.
            rate: rate limits as text. Default: unlimited.
            credits: credit balance. Default: none, so that requests are not charged.
            expires: expiry time in seconds since 1970. Default: never.

        Returns:
            (the key in plain text, which is stored nowhere; its record).
        """
        key_id, key = generate_stored_key()
        salt = secrets.token_bytes(16)
        made = StoredKey(
            key_id, name, tenant, tuple(scopes), rate, credits, time.time(), expires, None
        )
        with self._database.writing() as connection:
            connection.execute(
                insert(KEYS).values(
                    id=key_id,
                    name=name,
                    tenant=tenant,
                    salt=salt,
                    digest=salted_digest(key, salt),
                    scopes=",".join(scopes),
                    rate=rate,
                    credits=credits,
                    created=made.created,
                    expires=expires,
                )
            )
            self._changed(connection)
        return key, made

    def change(
        self, key_id: str, values: Mapping[str, object], *, add_credits: int = 0
    ) -> StoredKey | None:
        """Change a key.

        Args:
            key_id: id of the key.
            values: new values by attribute name of `StoredKey`.
            add_credits: credits to add to the balance; no effect on a key without one.

        Returns:
            The changed record; None if the key is unknown.
        """
        new = dict(values)
        if "scopes" in new:
            new["scopes"] = ",".join(new["scopes"])  # type: ignore[arg-type]
        if add_credits:
            new["credits"] = KEYS.c.credits + add_credits
        with self._database.writing() as connection:
            if new:
                connection.execute(update(KEYS).where(KEYS.c.id == key_id).values(**new))
            self._changed(connection)
            row = connection.execute(select(KEYS).where(KEYS.c.id == key_id)).one_or_none()
            return None if row is None else _stored(row)

    def revoke(self, key_id: str) -> StoredKey | None:
        """Revoke a key. A second call keeps the first time. Return None if the key is unknown."""
        with self._database.writing() as connection:
            known = KEYS.c.id == key_id
            connection.execute(
                update(KEYS).where(known, KEYS.c.revoked.is_(None)).values(revoked=time.time())
            )
            self._changed(connection)
            row = connection.execute(select(KEYS).where(known)).one_or_none()
            return None if row is None else _stored(row)

    def _changed(self, connection: Connection) -> None:
        set_fact(connection, _CHANGE, secrets.token_hex(16))

    def all(self) -> Sequence[StoredKey]:
        """List all keys, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(KEYS).order_by(KEYS.c.created, KEYS.c.id))
            return [_stored(row) for row in rows]

    def secrets(self, known: str | None) -> tuple[str, Mapping[str, Secret] | None]:
        """Load what is needed to authenticate the keys, if they have changed.

        Args:
            known: the version that the last call returned; None for the first call.

        Returns:
            (the version, the keys by id or None if they have not changed).
        """
        with self._database.reading() as connection:
            now = fact(connection, _CHANGE) or ""
            if now == known:
                return now, None
            found = {}
            for row in connection.execute(select(KEYS)):
                stored = _stored(row)
                found[stored.id] = Secret(row.salt, row.digest, stored, stored.key)
            return now, found

    def take(self, charge: Charge) -> int | None:
        """Charge a key in a transaction of its own; see the function `take`."""

        def work() -> int | None:
            with self._database.writing() as connection:
                return take(connection, charge)

        # Not retried on PostgreSQL: a lost connection may have committed the charge.
        return self._database.retrying(work) if self._database.is_sqlite else work()

    def give_back(self, charge: Charge) -> None:
        """Refund a charge in a transaction of its own; see the function `give_back`."""
        with self._database.writing() as connection:
            give_back(connection, charge)

    def add(self, used: Collection[Usage]) -> None:
        """Add to the usage of keys."""
        with self._database.writing() as connection:
            # Sorted, so that concurrent servers lock rows in the same order and do not deadlock.
            _add(connection, sorted(used, key=lambda each: (each.key_id, each.day)))

    def usage(self, since: str, key_id: str | None = None) -> Sequence[Usage]:
        """List usage by day and key, latest day first.

        Args:
            since: first UTC date, such as `2026-01-31`.
            key_id: id of the only key to list. Default: all.
        """
        query = select(USAGE).where(USAGE.c.day >= since)
        if key_id is not None:
            query = query.where(USAGE.c.key_id == key_id)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(USAGE.c.day.desc(), USAGE.c.key_id))
            return [Usage(**row._mapping) for row in rows]

    def forget_usage(self, before: str) -> None:
        """Delete usage before a UTC date, such as `2026-01-31`."""
        with self._database.writing() as connection:
            connection.execute(delete(USAGE).where(USAGE.c.day < before))


def _stored(row: Row[tuple[object, ...]]) -> StoredKey:
    return StoredKey(
        row.id,
        row.name,
        row.tenant,
        tuple(row.scopes.split(",")),
        row.rate,
        row.credits,
        row.created,
        row.expires,
        row.revoked,
    )
