"""`inference-server keys`: tables and JSON, validation, and no secret in any output."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from inference_server.auth import KeyRepository, Usage, day_of
from inference_server.cli import main
from inference_server.cli.keys import has_stored_keys
from inference_server.database import Database
from inference_server.settings import Settings

Keys = Callable[..., Result]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Run `inference-server keys` with a new database."""

    def run(*arguments: str, code: int = 0, **environment: str) -> Result:
        environment = {"INFERENCE_DATA_DIR": str(tmp_path / "data"), **environment}
        result = CliRunner().invoke(main, ["keys", *arguments], env=environment)
        assert result.exit_code == code, result.output
        return result

    return run


def made(keys: Keys, *arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(keys("create", *arguments, "--json").stdout)
    return answer


def test_a_key_is_shown_once_and_nothing_else_is_on_stdout(keys: Keys, tmp_path: Path) -> None:
    result = keys("create", "--name", "ci bot", "--rate", "10/s")
    assert re.fullmatch(r"inf_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n", result.stdout)
    key = result.stdout.strip()
    assert "only time" in result.stderr
    assert "ci bot" in result.stderr
    secret = key.split("_", 2)[2]
    assert secret not in result.stderr
    for arguments in (["list"], ["list", "--all", "--json"], ["usage"]):
        assert secret not in keys(*arguments).output
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def test_only_a_salted_digest_is_stored(keys: Keys, tmp_path: Path) -> None:
    for _ in range(2):
        keys("create", "--name", "same")
    with sqlite3.connect(tmp_path / "data" / "jobs.sqlite") as database:
        rows = database.execute("select salt, digest from inference_keys").fetchall()
    assert len({salt for salt, _ in rows}) == 2
    assert {(len(salt), len(digest)) for salt, digest in rows} == {(16, 32)}


def test_options_have_defaults(keys: Keys) -> None:
    begin = datetime.now(UTC).replace(microsecond=0)
    key = made(keys, "--name", "plain")
    assert key.pop("key").startswith(f"inf_{key['id']}_")
    assert begin <= datetime.fromisoformat(key.pop("created")) <= datetime.now(UTC)
    assert key == {
        "id": key["id"],
        "name": "plain",
        "tenant": None,
        "scopes": ["segment"],
        "rate": None,
        "credits": None,
        "expires": None,
        "revoked": None,
        "state": "active",
    }


def test_options_are_stored(keys: Keys) -> None:
    options = ["--tenant", "acme", "--scope", "admin", "--scope", "segment"]
    options += ["--rate", "10/s; 500/day", "--credits", "0", "--expires", "30d"]
    key = made(keys, "--name", "full", *options)
    (listed,) = json.loads(keys("list", "--json").stdout)
    assert {name: value for name, value in key.items() if name != "key"} == listed
    assert listed["scopes"] == ["segment", "admin"]
    assert (listed["tenant"], listed["rate"], listed["credits"]) == ("acme", "10/s; 500/day", 0)
    left = datetime.fromisoformat(listed["expires"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)


def test_the_table_lists_all_columns(keys: Keys) -> None:
    key = made(keys, "--name", "[bold]ops[/bold]", "--tenant", "acme", "--credits", "12")
    printed = keys("list").stdout
    for text in (key["id"], "[bold]ops[/bold]", "acme", "segment", "12", "active"):
        assert text in printed


def test_without_keys_list_says_how_to_create_one(keys: Keys) -> None:
    assert "keys create" in keys("list").stderr
    assert json.loads(keys("list", "--json").stdout) == []


def test_set_changes_only_the_given_options(keys: Keys) -> None:
    key = made(keys, "--name", "old", "--rate", "1/s", "--credits", "5", "--expires", "1h")
    key.pop("key")
    changes: list[tuple[list[str], dict[str, Any]]] = [
        (["--name", "new"], {"name": "new"}),
        (["--scope", "admin"], {"scopes": ["admin"]}),
        (["--rate", "5/m"], {"rate": "5/m"}),
        (["--rate", "none"], {"rate": None}),
        (["--add-credits", "7"], {"credits": 12}),
        (["--credits", "3"], {"credits": 3}),
        (["--credits", "none"], {"credits": None}),
        (["--expires", "2999-01-31"], {"expires": "2999-01-31T00:00:00+00:00"}),
        (["--expires", "never"], {"expires": None}),
    ]
    for options, changed in changes:
        key.update(changed)
        assert json.loads(keys("set", key["id"], *options, "--json").stdout) == key
    assert json.loads(keys("list", "--json").stdout) == [key]


def test_a_revoked_key_is_listed_by_all_only(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `revoke` keeps the first time."""
    now = datetime.now(UTC).timestamp()
    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr("inference_server.auth.repository.time", clock)
    key = made(keys, "--name", "gone")
    assert "revoked" in keys("revoke", key["id"]).stdout
    first = json.loads(keys("list", "--all", "--json").stdout)
    assert [each["state"] for each in first] == ["revoked"]
    assert json.loads(keys("list", "--json").stdout) == []
    now += 60
    keys("revoke", key["id"])
    assert json.loads(keys("list", "--all", "--json").stdout) == first


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create"], "--name"),
        (["create", "--name", ""], "1 to 64"),
        (["create", "--name", "x" * 65], "1 to 64"),
        (["create", "--name", "a\x1b[31mb"], "1 to 64"),
        (["create", "--name", "x", "--tenant", "a/b"], "--tenant"),
        (["create", "--name", "x", "--scope", "root"], "root"),
        (["create", "--name", "x", "--rate", "fast"], "10/s"),
        (["create", "--name", "x", "--rate", "0/s"], "1 to 100000"),
        (["create", "--name", "x", "--rate", "1000000/d"], "1 to 100000"),
        (["create", "--name", "x", "--rate", ";".join(["1/s"] * 5)], "at most 4"),
        (["create", "--name", "x", "--credits", "-1"], "not a number of credits"),
        (["create", "--name", "x", "--credits", "1.5"], "not a number of credits"),
        (["create", "--name", "x", "--credits", "9" * 30], "not a number of credits"),
        (["create", "--name", "x", "--expires", "soon"], "30d"),
        (["create", "--name", "x", "--expires", "2001-01-01"], "in the past"),
        (["set", "0123456789ab"], "Nothing to change"),
        (["set", "0123456789ab", "--credits", "1", "--add-credits", "1"], "not both"),
        (["revoke", "../../etc"], "12 characters"),
        (["usage", "--days", "0"], "--days"),
    ],
)
def test_invalid_options_are_errors(keys: Keys, arguments: list[str], told: str) -> None:
    assert told in keys(*arguments, code=2).stderr


@pytest.mark.parametrize("command", [["revoke"], ["set", "--name", "x"]])
def test_an_unknown_key_is_an_error(keys: Keys, command: list[str]) -> None:
    assert "Unknown key 0123456789ab" in keys(*command, "0123456789ab", code=1).stderr


def test_credits_cannot_be_added_to_unlimited_credits(keys: Keys) -> None:
    key = made(keys, "--name", "free")
    result = keys("set", key["id"], "--add-credits", "1", code=1)
    assert f"Key {key['id']} has unlimited credits" in result.stderr


def test_usage_is_listed_by_key_and_day(keys: Keys, tmp_path: Path) -> None:
    key = made(keys, "--name", "busy")
    today, before = day_of(), day_of(datetime.now(UTC) - timedelta(days=5))
    database = Database(tmp_path / "data")
    KeyRepository(database).add(
        [Usage(key["id"], today, 3, 1, 4), Usage(key["id"], before, 9), Usage("static", today, 1)]
    )
    KeyRepository(database).add([Usage(key["id"], today, 2, 0, 2)])
    database.close()
    used = json.loads(keys("usage", "--json").stdout)
    assert [each["day"] for each in used] == [today, today, before]
    assert {(each["day"], each["name"], each["requests"]) for each in used} == {
        (today, "busy", 5),
        (today, None, 1),
        (before, "busy", 9),
    }
    mine = json.loads(keys("usage", key["id"], "--days", "5", "--json").stdout)
    assert mine == [
        {
            "name": "busy",
            "key_id": key["id"],
            "day": today,
            "requests": 5,
            "failures": 1,
            "credits": 6,
        }
    ]
    printed = keys("usage").stdout
    assert re.search(rf"{today}\s+{key['id']}\s+busy\s+5\s+1\s+6", printed)


def test_a_database_error_does_not_show_the_password(keys: Keys) -> None:
    url = "postgresql://someone:s3cret@127.0.0.1:1/jobs"
    result = keys("list", code=1, INFERENCE_DATABASE_URL=url)
    assert "Cannot use the database of INFERENCE_DATABASE_URL" in result.stderr
    assert "s3cret" not in result.output
    assert "Traceback" not in result.output


def test_an_unusable_data_directory_is_an_error(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    where = str(tmp_path / "file" / "data")
    assert where in keys("list", code=1, INFERENCE_DATA_DIR=where).stderr


def test_has_stored_keys(keys: Keys, tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path / "data"))
    assert not has_stored_keys(settings)
    key = made(keys, "--name", "only")
    assert has_stored_keys(settings)
    keys("revoke", key["id"])
    assert not has_stored_keys(settings)
    (tmp_path / "file").touch()
    assert not has_stored_keys(Settings(data_dir=str(tmp_path / "file" / "data")))
    gone = "postgresql://someone@127.0.0.1:1/jobs"
    assert has_stored_keys(Settings(database_url=gone))


def test_the_database_is_named(keys: Keys, tmp_path: Path) -> None:
    """Each command says which database it uses; one that makes a new one warns."""
    file = tmp_path / "data" / "jobs.sqlite"
    first = keys("create", "--name", "one", "--json")
    assert f"Database: {file}" in first.stderr
    assert "This database is new." in first.stderr
    again = keys("list", "--json")
    assert f"Database: {file}" in again.stderr
    assert "new" not in again.stderr
    assert [each["name"] for each in json.loads(again.stdout)] == ["one"]


@pytest.mark.parametrize("before", [True, False])
def test_the_directory_as_an_option(keys: Keys, tmp_path: Path, before: bool) -> None:
    """It overrides the environment, before or after the name of the command."""
    option = ("--data-dir", str(tmp_path / "other"))
    command = ("create", "--name", "one", "--json")
    result = keys(*((*option, *command) if before else (*command, *option)))
    assert f"Database: {tmp_path / 'other' / 'jobs.sqlite'}" in result.stderr
    assert (tmp_path / "other" / "jobs.sqlite").exists()
    assert not (tmp_path / "data").exists()
    url = {"INFERENCE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    assert len(json.loads(keys("list", "--json", *option, **url).stdout)) == 1


def test_an_empty_directory_is_the_default(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys("create", "--name", "one", INFERENCE_DATA_DIR="")
    assert [each.name for each in tmp_path.iterdir()] == [".inference-server"]
