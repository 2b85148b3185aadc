"""API keys during an outage of their database: no response 500, and no unpaid work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.api.pictures import noise
from tests.api.serving import ALICE, VISUAL, serving, until
from tests.api.stored_keys import error_message, fast_polling, keyed
from tests.jobs.postgres import fresh_database

BODY = {"image": 7}
"""An invalid body: an accepted key gets 422 without any work."""


@pytest.fixture
def database(postgres_url: str) -> Iterator[tuple[str, Callable[..., None]]]:
    """(URL of a database, a function that allows connections to it or ends them all)."""
    name = f"outage{time.monotonic_ns()}"

    def let_in(*, allowed: bool) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f'alter database "{name}" allow_connections {allowed}')
            of_it = "from pg_stat_activity where datname = %s"

            def none_is_left() -> bool:
                """End all connections, which takes them a moment."""
                connection.execute(f"select pg_terminate_backend(pid) {of_it}", [name])
                return connection.execute(f"select 1 {of_it}", [name]).fetchone() is None

            if not allowed:
                until(none_is_left)

    with fresh_database(postgres_url, name) as url:
        yield url, let_in
        let_in(allowed=True)


def test_a_temporary_database_outage(
    tmp_path: Path,
    database: tuple[str, Callable[..., None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fast_polling(monkeypatch)
    url, let_in = database
    with keyed(tmp_path / "data", url, key_grace=1000, cost_visual=1) as running:
        server = running.server
        free, unpaid = running.create("free")
        paying, paid = running.create("paying", credits=5)
        revoked, gone = running.create("revoked")
        running.store.revoke(gone.id)
        running.until_known(revoked, 401)
        let_in(allowed=False)
        image = {"image": {"type": "base64", "value": "bm90IGFuIGltYWdl"}}
        until(lambda: server.metric("inference_background_task_up", task="keys") == 0)
        ready = server.get("/readyz", key=None)
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert "keys has failed for " in ready.json()["message"]
        assert "allow" not in ready.text, "the reason is for the log alone"
        # Keys keep the state that the server loaded last.
        assert server.post(VISUAL, BODY, key=ALICE).status_code == 422
        assert server.post(VISUAL, BODY, key=free).status_code == 422
        assert server.post(VISUAL, BODY, key=revoked).status_code == 401
        assert server.post(VISUAL, BODY, key="wrong").status_code == 401
        answer = server.post(VISUAL, image, key=paying)
        assert answer.status_code == 503
        assert "Credits cannot be charged" in error_message(answer)
        assert answer.headers["retry-after"]

        def are_too_old() -> bool:
            """Pretend that the keys were loaded too long ago, instead of waiting."""
            server.state.auth._seen = time.monotonic() - 1001
            return server.post(VISUAL, BODY, key=free).status_code == 503

        # After the grace period, stored keys are refused.
        until(are_too_old)
        for key in (free, paying, revoked):
            answer = server.post(VISUAL, BODY, key=key)
            assert answer.status_code == 503
            assert "cannot be checked" in error_message(answer)
            assert server.get("/models", key=key).status_code == 503
            assert server.post("/v1/sam3-image", {}, key=key).status_code == 502
        assert server.post(VISUAL, BODY, key=ALICE).status_code == 422
        assert server.post(VISUAL, BODY, key="wrong").status_code == 401
        assert server.post(VISUAL, BODY, key=None).status_code == 401
        let_in(allowed=True)
        until(lambda: server.post(VISUAL, BODY, key=free).status_code == 422)
        assert server.post(VISUAL, BODY, key=revoked).status_code == 401
        # Usage of the outage is written afterwards, and failed requests cost nothing.
        tenant = server.state.auth.authenticate(ALICE).tenant.name
        until(lambda: any(u.key_id == tenant for u in running.store.usage("2000-01-01")))
        until(lambda: running.used(unpaid)[0] >= 2)
        assert running.credits_left(paid) == 5
        until(lambda: server.get("/readyz").json()["status"] == "ok")
        assert server.metric("inference_background_task_up", task="keys") == 1
    # Read after the server has stopped, so that no thread still writes to it.
    log = caplog.text
    assert "The key database is unavailable" in log
    for key in (free, paying, revoked, ALICE):
        assert key not in log
        assert key.split("_", 2)[-1] not in log


def test_a_refund_waits_for_the_database(
    tmp_path: Path, database: tuple[str, Callable[..., None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_polling(monkeypatch)
    url, let_in = database
    with keyed(tmp_path / "data", url, ready=False, cost_visual=2) as running:
        key, made = running.create("paying", credits=5)

        async def fails(*_: object, **__: object) -> None:
            assert running.credits_left(made) == 3
            let_in(allowed=False)
            raise MemoryError

        monkeypatch.setattr(running.server.state.segmenter, "visual", fails)
        body = {"image": {"type": "base64", "value": "bm90IGFuIGltYWdl"}}
        assert running.server.post(VISUAL, body, key=key).status_code == 503
        let_in(allowed=True)
        until(lambda: running.credits_left(made) == 5)
        until(lambda: running.used(made) == (1, 1, 0))


def test_a_database_that_is_unavailable_at_startup(tmp_path: Path) -> None:
    """Stored keys cannot be checked; keys in the settings work."""
    (tmp_path / "file").touch()
    stored = f"inf_0123456789ab_{'A' * 43}"
    with serving(ready=False, data_dir=str(tmp_path / "file" / "data")) as server:
        answers: dict[str | None, httpx.Response] = {
            key: server.post(VISUAL, BODY, key=key) for key in (ALICE, stored, "wrong", None)
        }
        assert [answer.status_code for answer in answers.values()] == [422, 503, 401, 401]
        assert stored not in answers[stored].text


def test_servers_that_share_a_database_share_keys_and_credits(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"ready": False, "cost_visual": 2, "job_workers": 0}
    with keyed(tmp_path / "data", **shared) as first, keyed(tmp_path / "data", **shared) as second:
        key, made = first.create("shared", credits=3)
        second.until_known(key)
        body = {"image": noise(1)}
        assert first.server.post(f"/v2{VISUAL}", body, key=key).status_code == 200
        assert second.credits_left(made) == 1
        assert second.server.post(f"/v2{VISUAL}", body, key=key).status_code == 402
        second.store.revoke(made.id)
        first.until_known(key, 401)
