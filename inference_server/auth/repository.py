"""The keys in the database, what they have used, and the credits that they have left."""

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
from inference_server.database import FACTS, Database
from inference_server.errors import CreditsError
from inference_server.setting_types import SCOPES, Scope

_CHANGE = "keys"
"""The fact that is another after each change of the keys, but not of their credits."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key of the database.

    Attributes:
        id: of the key.
        name: what people call it.
        tenant: the named tenant that it shares with others; None if it is one of its own.
        scopes: what it may do.
        rate: how often it may ask, as text; None if as often as it likes.
        credits: what it has left; None if it needs none.
        created: in seconds since 1970, as the next two.
        expires: when it ends by itself.
        revoked: when it was ended.
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
        """Whether it lets anybody in now, and if not, why."""
        if self.revoked is not None:
            return "revoked"
        over = self.expires is not None and self.expires <= time.time()
        return "expired" if over else "active"

    @property
    def key(self) -> Key:
        """What it may do, for those who answer requests."""
        # No name of a tenant of the settings has a slash, so that none can be taken for another.
        tenant = f"tenant/{self.tenant}" if self.tenant else f"key/{self.id}"
        rates = parse_rate(self.rate) if self.rate else ()
        scopes = frozenset(self.scopes)
        return Key(self.id, Tenant(tenant), scopes, rates, self.credits is not None)


@dataclass(frozen=True, slots=True)
class Secret:
    """How a key is recognised, and the key.

    Attributes:
        salt: of the digest.
        digest: of the key.
        stored: the key.
        key: what it may do.
    """

    salt: bytes
    digest: bytes
    stored: StoredKey
    key: Key

    def is_of(self, candidate: str) -> bool:
        """Whether this is the key, in constant time."""
        return hmac.compare_digest(self.digest, salted_digest(candidate, self.salt))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a key has used on a day.

    Attributes:
        key_id: of the key; of a key of the settings, the name of its tenant.
        day: in UTC.
        requests: for work that were sent with the key.
        failures: how many of them did not succeed.
        credits: what they cost, without what was given back.
    """

    key_id: str
    day: str
    requests: int = 0
    failures: int = 0
    credits: int = 0


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request costs.

    Attributes:
        key_id: who pays.
        credits: how much.
        day: on which it was asked.
    """

    key_id: str
    credits: int
    day: str


def day_of(moment: datetime | None = None) -> str:
    """The day of a moment in UTC, or of now."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%d")


def take(connection: Connection, charge: Charge) -> int | None:
    """Take credits from a key, which may be one without any.

    Args:
        connection: in a transaction; what else happens in it happens if there are enough.
        charge: what to take.

    Returns:
        What the key has left; None if it needs none.

    Raises:
        CreditsError: it has not enough.
    """
    mine = KEYS.c.id == charge.key_id
    left = connection.execute(
        # One statement, so that of requests at a time none can take what another has taken.
        update(KEYS)
        .where(mine, KEYS.c.credits >= charge.credits)
        .values(credits=KEYS.c.credits - charge.credits)
        .returning(KEYS.c.credits)
    ).scalar_one_or_none()
    if left is None:
        has = connection.execute(select(KEYS.c.credits).where(mine)).scalar_one_or_none()
        if has is not None:
            raise CreditsError(
                f"Not enough credits: this request costs {charge.credits}, and the API key has "
                f"{has} left."
            )
    _add(connection, [Usage(charge.key_id, charge.day, credits=charge.credits)])
    return left


def give_back(connection: Connection, charge: Charge) -> None:
    """Undo a charge; keys that need no credits by now only used less."""
    connection.execute(
        update(KEYS)
        .where(KEYS.c.id == charge.key_id)
        .values(credits=KEYS.c.credits + charge.credits)
    )
    _add(connection, [Usage(charge.key_id, charge.day, credits=-charge.credits)])


def _add(connection: Connection, used: Iterable[Usage]) -> None:
    """Add to what keys have used."""
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
    """The keys. Every method blocks, so that it belongs in a worker thread, or in a command.

    Args:
        database: that holds them.
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
        credits: int | None = None,  # noqa: A002 - what they are
        expires: float | None = None,
    ) -> tuple[str, StoredKey]:
        """Make a key; see `StoredKey`.

        Returns:
            (the key itself, which is kept nowhere; what is stored of it).
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
            key_id: which.
            values: by names of `StoredKey`, what is to be other than it is.
            add_credits: besides what it has; nothing for a key that needs none.

        Returns:
            The key as it is then; None if it is unknown.
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
        """End a key, at the time of the first call; None if it is unknown."""
        with self._database.writing() as connection:
            known = KEYS.c.id == key_id
            connection.execute(
                update(KEYS).where(known, KEYS.c.revoked.is_(None)).values(revoked=time.time())
            )
            self._changed(connection)
            row = connection.execute(select(KEYS).where(known)).one_or_none()
            return None if row is None else _stored(row)

    def _changed(self, connection: Connection) -> None:
        value = secrets.token_hex(16)
        dialect = sqlite if self._database.is_sqlite else postgresql
        row = dialect.insert(FACTS).values(name=_CHANGE, value=value)
        connection.execute(
            row.on_conflict_do_update(index_elements=[FACTS.c.name], set_={"value": value})
        )

    def all(self) -> Sequence[StoredKey]:
        """All keys, the oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(KEYS).order_by(KEYS.c.created, KEYS.c.id))
            return [_stored(row) for row in rows]

    def secrets(self, known: str | None) -> tuple[str, Mapping[str, Secret] | None]:
        """What keys are recognised by.

        Args:
            known: what the last call returned first.

        Returns:
            (changes with every change of the keys, the keys by their ids or None if nothing has
            changed).
        """
        with self._database.reading() as connection:
            change = select(FACTS.c.value).where(FACTS.c.name == _CHANGE)
            now = connection.execute(change).scalar_one_or_none() or ""
            if now == known:
                return now, None
            found = {}
            for row in connection.execute(select(KEYS)):
                stored = _stored(row)
                found[stored.id] = Secret(row.salt, row.digest, stored, stored.key)
            return now, found

    def take(self, charge: Charge) -> int | None:
        """See the function of this name."""

        def work() -> int | None:
            with self._database.writing() as connection:
                return take(connection, charge)

        # A lost connection may have taken them already: only what is certainly undone is retried.
        return self._database.retrying(work) if self._database.is_sqlite else work()

    def give_back(self, charge: Charge) -> None:
        """See the function of this name."""
        with self._database.writing() as connection:
            give_back(connection, charge)

    def add(self, used: Collection[Usage]) -> None:
        """Add to what keys have used."""
        with self._database.writing() as connection:
            # In one order, so that servers that do this at a time do not wait for each other.
            _add(connection, sorted(used, key=lambda each: (each.key_id, each.day)))

    def usage(self, since: str, key_id: str | None = None) -> Sequence[Usage]:
        """What keys have used since a day, day by day, the latest first."""
        query = select(USAGE).where(USAGE.c.day >= since)
        if key_id is not None:
            query = query.where(USAGE.c.key_id == key_id)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(USAGE.c.day.desc(), USAGE.c.key_id))
            return [Usage(**row._mapping) for row in rows]

    def forget_usage(self, before: str) -> None:
        """Forget what was used before a day."""
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
