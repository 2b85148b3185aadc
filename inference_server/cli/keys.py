"""`inference-server keys`: create, list, change and revoke stored API keys; show their usage.

The commands access only the database, so they work whether or not servers are running. Running
servers check for changes every second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from inference_server.cli.key_types import (
    ID,
    MOST_CREDITS,
    NAME,
    TENANT,
    Credits,
    Rate,
    When,
)
from inference_server.cli.options import settings_of
from inference_server.settings import Settings
from inference_server.settings.types import SCOPES, Scope

if TYPE_CHECKING:
    from inference_server.auth import KeyRepository, StoredKey

_WIDTH = 160
"""Width in characters of tables that are not written to a terminal."""


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta[_DATA_DIR] = value


_DATA_DIR = "inference_server.data_dir"
_data_dir = click.option(
    "--data-dir",
    metavar="DIRECTORY",
    callback=_remember,
    expose_value=False,
    help="Directory of the server's SQLite database; overrides INFERENCE_DATA_DIR and "
    "INFERENCE_DATABASE_URL.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_scopes = click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="Permission: `segment` for images and jobs, `admin` for the server itself. Repeatable.",
)
_rate = click.option(
    "--rate",
    type=Rate(),
    help="Rate limit, such as 10/s or '100/m; 5000/d'; `none` for unlimited.",
)
_credits = click.option(
    "--credits", "balance", type=Credits(), help="Credit balance; `none` for unlimited."
)
_expires = click.option(
    "--expires",
    type=When(),
    help="Expiry: a duration such as 30d or 12h, or a date in UTC; `never` for no expiry.",
)


@click.group()
@_data_dir
def keys() -> None:
    """Create, list, change and revoke API keys, and show their usage.

    Keys are stored in the server's database; name it by --data-dir, or set INFERENCE_DATA_DIR or
    INFERENCE_DATABASE_URL as for the server. Each command says which database it uses, and warns
    if it makes a new one. Running servers apply changes within seconds.
    """


@keys.command()
@click.option("--name", type=NAME, required=True, help="Display name of the key.")
@click.option(
    "--tenant",
    type=TENANT,
    help="Tenant of the key. Keys of one tenant share images and jobs. Default: a new tenant.",
)
@_scopes
@_rate
@_credits
@_expires
@_json
@_data_dir
def create(
    name: str,
    tenant: str | None,
    scopes: tuple[Scope, ...],
    rate: str | None,
    balance: int | None,
    expires: float | None,
    as_json: bool,
) -> None:
    """Create a key and print it. It cannot be shown again."""
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
        _write({"key": key, **_plain(made)})
        return
    click.echo(key)
    click.echo("Save the key now: this is the only time that it is shown.", err=True)
    _table([made], to_stderr=True)


@keys.command("list")
@click.option("--all", "everything", is_flag=True, help="Include expired and revoked keys.")
@_json
@_data_dir
def list_(everything: bool, as_json: bool) -> None:
    """List keys with their ids and limits, the oldest first. The secrets are not stored."""
    with _store() as store:
        found = [key for key in store.all() if everything or key.state == "active"]
    if as_json:
        _write([_plain(key) for key in found])
    elif found:
        _table(found)
    else:
        click.echo("No keys. Create one with: inference-server keys create --name NAME", err=True)


@keys.command()
@click.argument("key_id", metavar="ID", type=ID)
@_json
@_data_dir
def revoke(key_id: str, as_json: bool) -> None:
    """Revoke a key permanently. Its requests and jobs in progress are finished."""
    with _store() as store:
        _show(store.revoke(key_id), key_id, as_json)


@keys.command("set")
@click.argument("key_id", metavar="ID", type=ID)
@click.option("--name", type=NAME, help="Display name of the key.")
@_scopes
@_rate
@_credits
@click.option(
    "--add-credits",
    type=click.IntRange(1, MOST_CREDITS),
    help="Add to the credit balance.",
)
@_expires
@_json
@_data_dir
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
    """Change a key. Options that are not given keep their values."""
    if balance is not None and add_credits is not None:
        raise click.UsageError("Use --credits or --add-credits, not both.")
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
        raise click.UsageError("Nothing to change. Use at least one option; see --help.")
    with _store() as store:
        if add_credits is not None:
            known = next((key for key in store.all() if key.id == key_id), None)
            if known is not None and known.credits is None:
                raise click.ClickException(
                    f"Key {key_id} has unlimited credits. Set a balance with --credits."
                )
        _show(store.change(key_id, new, add_credits=add_credits or 0), key_id, as_json)


@keys.command()
@click.argument("key_id", metavar="[ID]", required=False)
@click.option(
    "--days",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Number of days to show, including today.",
)
@_json
@_data_dir
def usage(key_id: str | None, days: int, as_json: bool) -> None:
    """List usage by key and day (UTC), the latest day first.

    Keys from INFERENCE_API_KEYS are listed by the name of their tenant, as in the log.
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
    """Open the stored keys; report a database's error without its query and password."""
    from sqlalchemy.exc import SQLAlchemyError

    from inference_server.auth import KeyRepository
    from inference_server.database import Database, in_short

    if settings is None:
        settings = _chosen()
        _announce(settings)
    where = "INFERENCE_DATABASE_URL" if settings.database_url else settings.data_dir
    try:
        database = Database.of(settings)
        try:
            yield KeyRepository(database)
        finally:
            database.close()
    except SQLAlchemyError as error:
        why = in_short(error)
        raise click.ClickException(f"Cannot use the database of {where}: {why}") from None
    except (OSError, RuntimeError) as error:
        raise click.ClickException(f"Cannot use the database of {where}: {error}") from None


def _chosen() -> Settings:
    """Return the settings, with the directory of `--data-dir` if it is given."""
    context = click.get_current_context(silent=True)
    directory = None if context is None else context.meta.get(_DATA_DIR)
    if directory is None:
        return settings_of()
    return settings_of(data_dir=directory, database_url="")


def _announce(settings: Settings) -> None:
    """Say which database a command uses, and whether it is a new one."""
    from inference_server.database import FILE

    if settings.database_url:
        click.echo("Database: the one of INFERENCE_DATABASE_URL", err=True)
        return
    file = Path(settings.data_dir).absolute() / FILE
    click.echo(f"Database: {file}", err=True)
    if not file.exists():
        click.echo(
            "This database is new. If a server is to use it, start the server with the same "
            "INFERENCE_DATA_DIR; otherwise name the server's directory with --data-dir.",
            err=True,
        )


def has_stored_keys(settings: Settings) -> bool:
    """Return whether the database of a server has an active key.

    Args:
        settings: the server's settings, for the location of the database.

    Returns:
        True also if a PostgreSQL database is unavailable, because it may have keys.
    """
    try:
        with _store(settings) as store:
            return any(key.state == "active" for key in store.all())
    except click.ClickException as error:
        click.echo(error.message, err=True)
        return bool(settings.database_url)


def _in_order(scopes: Sequence[Scope]) -> tuple[Scope, ...]:
    return tuple(scope for scope in SCOPES if scope in scopes)


def _plain(key: StoredKey) -> dict[str, Any]:
    """Return a key as JSON values, with times in ISO 8601."""

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
        raise click.ClickException(
            f"Unknown key {key_id}. Run `inference-server keys list` for the ids."
        )
    if as_json:
        _write(_plain(key))
    else:
        _table([key])


def _write(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def _table(found: Sequence[StoredKey], *, to_stderr: bool = False) -> None:
    columns = ("id", "name", "tenant", "scopes", "rate", "credits", "expires", "state")
    rows = [{**_plain(key), "scopes": ", ".join(key.scopes)} for key in found]
    _print(columns, rows, to_stderr=to_stderr)


def _print(
    columns: Sequence[str], rows: Sequence[dict[str, Any]], *, to_stderr: bool = False
) -> None:
    """Print a table."""
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
        # `Text`, so that rich does not interpret markup in a name.
        cells = ("" if row[name] is None else f"{row[name]}" for name in columns)
        table.add_row(*map(Text, cells))
    Console(file=file, width=None if file.isatty() else _WIDTH).print(table)
