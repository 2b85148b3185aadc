"""`inference-server keys`: make, list, change and revoke the keys of the database; see their usage.

Commands speak to the database alone, so that they work while servers run, and while none does.
Running servers look for changes every second.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
import orjson

from inference_server.cli.options import settings_of
from inference_server.settings import Settings
from inference_server.settings.types import SCOPES, Scope

if TYPE_CHECKING:
    from inference_server.auth import KeyRepository, StoredKey

_NONE = "none"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_MOST_CREDITS = 2**53
_LONGEST_RATE = 64
_WIDTH = 160
"""Of tables that are not written to a terminal."""


class _Rate(click.ParamType[str]):
    name = "RATE"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        from inference_server.auth import parse_rate

        if value == _NONE:
            return ""
        try:
            parse_rate(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if len(value) > _LONGEST_RATE:
            self.fail(f"at most {_LONGEST_RATE} characters", param, ctx)
        return str(value)


class _Credits(click.ParamType[int]):
    name = "NUMBER"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if value == _NONE:
            return -1
        if not re.fullmatch(r"\d{1,16}", str(value)) or int(value) > _MOST_CREDITS:
            self.fail(f"{value!r} is no number of credits, and not {_NONE!r}", param, ctx)
        return int(value)


class _When(click.ParamType[float]):
    name = "WHEN"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if value in (_NONE, "never"):
            return 0.0
        if match := re.fullmatch(r"(\d{1,6})([smhdwy])", value):
            return time.time() + int(match[1]) * _SECONDS[match[2]]
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither like 30d or 12h, nor a date like 2027-01-31", param)
        end = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if end <= time.time():
            self.fail(f"{value!r} is over", param, ctx)
        return end


class _Word(click.ParamType[str]):
    def __init__(self, name: str, pattern: str, said: str) -> None:
        self.name, self._pattern, self._said = name, pattern, said

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if not re.fullmatch(self._pattern, value) or not value.isprintable():
            self.fail(self._said, param, ctx)
        return str(value)


_NAME = _Word("NAME", r"\S(.{0,62}\S)?", "a name has 1 to 64 characters, and no spaces around it")
_TENANT = _Word("TENANT", r"[A-Za-z0-9._-]{1,48}", "1 to 48 of the characters A-Z a-z 0-9 . _ -")
_ID = _Word("ID", r"[0-9a-f]{12}", "an id has 12 characters of 0-9 a-f, as `keys list` shows it")

_json = click.option("--json", "as_json", is_flag=True, help="For machines.")
_scopes = click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="`segment`: images and jobs; `admin`: the server itself. May be repeated.",
)
_rate = click.option(
    "--rate", type=_Rate(), help="How often it may ask, as 10/s or `100/m; 5000/d`; none: always."
)
_credits = click.option(
    "--credits", "balance", type=_Credits(), help="What it has to pay with; none: it need not."
)
_expires = click.option(
    "--expires", type=_When(), help="When it ends: 30d, 12h, or a date in UTC; never: it does not."
)


@click.group()
def keys() -> None:
    """Make, list, change and revoke API keys, and see what they used.

    Keys are kept in the database of the jobs: INFERENCE_DATA_DIR or INFERENCE_DATABASE_URL say
    where, and must be the same as the server's. Changes reach running servers within seconds.
    """


@keys.command()
@click.option("--name", type=_NAME, required=True, help="What people call it.")
@click.option(
    "--tenant", type=_TENANT, help="Keys of one tenant share images and jobs. Default: its own."
)
@_scopes
@_rate
@_credits
@_expires
@_json
def create(
    name: str,
    tenant: str | None,
    scopes: tuple[Scope, ...],
    rate: str | None,
    balance: int | None,
    expires: float | None,
    as_json: bool,
) -> None:
    """Make a key, and show it this once."""
    with _store() as store:
        key, made = store.create(
            name,
            tenant=tenant,
            scopes=_in_order(scopes) or SCOPES[:1],
            rate=rate or None,
            credits=None if balance in (None, -1) else balance,
            expires=expires or None,
        )
    if as_json:
        _write({"key": key, **_told(made)})
        return
    click.echo(key)
    click.echo("This is the only time that the key is shown. What is known of it:", err=True)
    _table([made], to_stderr=True)


@keys.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that ended too.")
@_json
def list_(everything: bool, as_json: bool) -> None:
    """List the keys, the oldest first; never the keys themselves."""
    with _store() as store:
        found = [key for key in store.all() if everything or key.state == "active"]
    if as_json:
        _write([_told(key) for key in found])
    elif found:
        _table(found)
    else:
        click.echo("There is no key. Make one: inference-server keys create --name NAME", err=True)


@keys.command()
@click.argument("key_id", metavar="ID", type=_ID)
@_json
def revoke(key_id: str, as_json: bool) -> None:
    """End a key for good. Requests and jobs under way are still done."""
    with _store() as store:
        _show(store.revoke(key_id), key_id, as_json)


@keys.command("set")
@click.argument("key_id", metavar="ID", type=_ID)
@click.option("--name", type=_NAME, help="What people call it.")
@_scopes
@_rate
@_credits
@click.option(
    "--add-credits",
    type=click.IntRange(1, _MOST_CREDITS),
    help="More besides what it has.",
)
@_expires
@_json
def set_(
    key_id: str,
    name: str | None,
    scopes: tuple[Scope, ...],
    rate: str | None,
    balance: int | None,
    add_credits: int | None,
    expires: float | None,
    as_json: bool,
) -> None:
    """Change a key. What is not given stays as it is."""
    if balance is not None and add_credits is not None:
        raise click.UsageError("Give --credits or --add-credits, not both.")
    new: dict[str, object] = {}
    if name is not None:
        new["name"] = name
    if scopes:
        new["scopes"] = _in_order(scopes)
    if rate is not None:
        new["rate"] = rate or None
    if balance is not None:
        new["credits"] = None if balance == -1 else balance
    if expires is not None:
        new["expires"] = expires or None
    if not new and add_credits is None:
        raise click.UsageError("Nothing is to be changed: see --help.")
    with _store() as store:
        if add_credits is not None:
            known = next((key for key in store.all() if key.id == key_id), None)
            if known is not None and known.credits is None:
                raise click.ClickException("The key needs no credits: set some with --credits.")
        _show(store.change(key_id, new, add_credits=add_credits or 0), key_id, as_json)


@keys.command()
@click.argument("key_id", metavar="[ID]", required=False)
@click.option(
    "--days", type=click.IntRange(1), default=30, show_default=True, help="The last ones."
)
@_json
def usage(key_id: str | None, days: int, as_json: bool) -> None:
    """List what keys used, by key and day (UTC), the latest first.

    A key of INFERENCE_API_KEYS stands there as the name of its tenant, which the log shows too.
    """
    from inference_server.auth import day_of

    since = day_of(datetime.now(UTC) - timedelta(days=min(days, 36500) - 1))
    with _store() as store:
        found = store.usage(since, key_id)
        names = {key.id: key.name for key in store.all()}
    rows = [{"name": names.get(each.key_id), **asdict(each)} for each in found]
    if as_json:
        _write(rows)
        return
    _print(("day", "key_id", "name", "requests", "failures", "credits"), rows)


@contextmanager
def _store(settings: Settings | None = None) -> Iterator[KeyRepository]:
    """The keys; a database that fails is told in its own words, without what was sent to it."""
    from pathlib import Path

    from sqlalchemy.exc import SQLAlchemyError

    from inference_server.auth import KeyRepository
    from inference_server.database import Database, in_short

    settings = settings or settings_of()
    where = "INFERENCE_DATABASE_URL" if settings.database_url else settings.data_dir
    try:
        database = Database(Path(settings.data_dir), settings.database_url)
        try:
            yield KeyRepository(database)
        finally:
            database.close()
    except SQLAlchemyError as error:
        why = in_short(error)
        raise click.ClickException(f"The database of {where} cannot be used: {why}") from None
    except (OSError, RuntimeError) as error:
        raise click.ClickException(f"The database of {where} cannot be used: {error}") from None


def has_stored_keys(settings: Settings) -> bool:
    """Whether a server with these settings has a key in its database that may be used.

    A PostgreSQL that cannot be asked now may have some.
    """
    try:
        with _store(settings) as store:
            return any(key.state == "active" for key in store.all())
    except click.ClickException as error:
        click.echo(error.message, err=True)
        return bool(settings.database_url)


def _in_order(scopes: Sequence[Scope]) -> tuple[Scope, ...]:
    return tuple(scope for scope in SCOPES if scope in scopes)


def _told(key: StoredKey) -> dict[str, Any]:
    """A key as JSON."""

    def moment(seconds: float | None) -> str | None:
        if seconds is None:
            return None
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

    return {
        **asdict(key),
        "state": key.state,
        "created": moment(key.created),
        "expires": moment(key.expires),
        "revoked": moment(key.revoked),
    }


def _show(key: StoredKey | None, key_id: str, as_json: bool) -> None:
    if key is None:
        raise click.ClickException(f"There is no key {key_id}: see `inference-server keys list`.")
    if as_json:
        _write(_told(key))
    else:
        _table([key])


def _write(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def _table(found: Sequence[StoredKey], *, to_stderr: bool = False) -> None:
    columns = ("id", "name", "tenant", "scopes", "rate", "credits", "expires", "state")
    rows = [{**_told(key), "scopes": ", ".join(key.scopes)} for key in found]
    _print(columns, rows, to_stderr=to_stderr)


def _print(
    columns: Sequence[str], rows: Sequence[dict[str, Any]], *, to_stderr: bool = False
) -> None:
    """A table for people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    file = sys.stderr if to_stderr else sys.stdout
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False)
    for name in columns:
        numbers = name in ("requests", "failures", "credits")
        table.add_column(
            name.removeprefix("key_"),
            justify="right" if numbers else "left",
            no_wrap=name in ("id", "key_id", "day"),
        )
    for row in rows:
        # As text, so that nothing in a name is taken for markup.
        cells = ("" if row[name] is None else f"{row[name]}" for name in columns)
        table.add_row(*map(Text, cells))
    Console(file=file, width=None if file.isatty() else _WIDTH).print(table)
