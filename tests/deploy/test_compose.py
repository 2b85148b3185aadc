"""The Compose files: against Compose's schema, against the code, and run without containers.

No container engine takes part; docs/deployment.md tells what was run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import Draft7Validator, ValidationError

from inference_server.settings import Settings
from tests.api.pictures import Picture
from tests.api.serving import CONCEPT, until
from tests.deploy.generated import EXAMPLE, FIXED, MARK
from tests.deploy.generated import NAMES as SETTINGS
from tests.deploy.test_container import (
    DEPLOY,
    OTHERS,
    VARIABLES,
    arguments,
    compose,
    environment,
)
from tests.e2e.processes import process
from tests.environment import clean_environment

PROFILES = {"postgres": "jobs", "redis": "rates", "prometheus": "watch", "grafana": "watch"}
ITS_OWN = {"COMPOSE_PROFILES"}
"""Variables that Compose reads itself."""
_VARIABLE = re.compile(r"\$\$|\$\{(\w+):-([^}]*)\}")


def example() -> dict[str, str]:
    """Return the variables of `example.env`, all of which are commented out."""
    found = re.findall(r"^#(\w+)=(.*)$", EXAMPLE.read_text().partition(MARK)[0], re.MULTILINE)
    return dict(found)


def interpolated(value: Any, given: Mapping[str, str]) -> Any:
    """Return a value of a Compose file with its variables replaced, as Compose does it."""
    if isinstance(value, dict):
        return {name: interpolated(inner, given) for name, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, given) for inner in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(
        lambda found: "$" if found[0] == "$$" else given.get(found[1]) or found[2], value
    )


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_files_match_the_schema_of_compose(name: str) -> None:
    validator = Draft7Validator(get_builtin_schema("vendor.compose-spec"))
    validator.validate(compose(name))
    validator.validate(interpolated(compose(name), {}))
    with pytest.raises(ValidationError):
        validator.validate(compose(name) | {"service": {}})


def test_the_server_runs_alone_and_the_rest_by_profiles() -> None:
    services = compose()["services"]
    assert {name: each.get("profiles") for name, each in services.items()} == {
        "inference-server": None,
        **{name: [profile] for name, profile in PROFILES.items()},
    }
    server = services["inference-server"]
    # A profile that is not active must not hinder the server.
    assert set(server["depends_on"]) == {"postgres", "redis"}
    assert {each["required"] for each in server["depends_on"].values()} == {False}
    named = [volume for volume in server["volumes"] if not volume.startswith(("$", "."))]
    assert named == ["temporary:/tmp", "data:/data"]
    assert "data:" + environment()["INFERENCE_DATA_DIR"] in named
    assert server["environment"]["HF_HOME"].startswith("/data/")
    assert set(compose("compose.gpu.yaml")["services"]) == {"inference-server"}


def test_no_variable_is_required() -> None:
    """Compose interpolates services of inactive profiles, too."""
    text = (DEPLOY / "compose.yaml").read_text()
    for found in re.finditer(r"(\$+)\{[^}]*\}", text):
        assert found[1] == "$$" or _VARIABLE.fullmatch(found[0]), found[0]


def test_names_exist() -> None:
    loaded = compose()
    services = loaded["services"]
    server = services["inference-server"]
    assert {name for name in server["environment"] if name.startswith("INFERENCE_")} <= VARIABLES
    assert set(server["build"]["args"]) <= {given.split("=")[0] for given in arguments("ARG")}
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("$"):
                assert source in loaded["volumes"], source
        assert set(service.get("secrets", [])) <= set(loaded["secrets"])
        assert set(service.get("depends_on", [])) <= set(services)
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "ports must be reachable through a proxy only"
    prometheus = (DEPLOY / "prometheus/prometheus.yaml").read_text()
    target = f"inference-server:{Settings.model_fields['port'].default}"
    assert f'"{target}"' in prometheus
    assert server["ports"][0].endswith(target.split(":")[1])
    for secret in loaded["secrets"]:
        assert f"/run/secrets/{secret}" in prometheus
    assert any(":/var/lib/grafana/dashboards/" in each for each in services["grafana"]["volumes"])


def test_the_example_has_every_setting_and_every_variable() -> None:
    text = EXAMPLE.read_text()
    # All are comments: an untouched copy is the same as none.
    assert not [line for line in text.splitlines() if line and not line.startswith("#")]
    head, _, rest = text.partition(MARK)
    settings = re.findall(r"^#(INFERENCE_\w+)=", rest, re.MULTILINE)
    assert settings == [f"INFERENCE_{name.upper()}" for name in SETTINGS if name not in FIXED]
    asked = {
        name for name, _ in re.findall(_VARIABLE, (DEPLOY / "compose.yaml").read_text()) if name
    }
    secrets = {each["environment"] for each in compose()["secrets"].values()}
    named = set(re.findall(r"^#(\w+)=", head, re.MULTILINE))
    assert asked | secrets <= named
    assert named - asked - secrets <= VARIABLES | OTHERS | ITS_OWN
    active = compose()["services"]["inference-server"]["environment"]
    # What is in the file must have an effect: the Compose file overrides only secrets of others.
    assert {name for name, value in active.items() if value == ""} == {
        *secrets,
        *(name for name in asked if name.endswith("PASSWORD")),
    }
    assert not set(active) & set(settings)


def test_defaults_of_the_example_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in re.findall(r"^#(INFERENCE_\w+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE):
        monkeypatch.setenv(name, value)
    defaults = Settings(_env_prefix="NONE_")
    changed = {
        name
        for name in SETTINGS
        if name not in FIXED and getattr(Settings(), name) != getattr(defaults, name)
    }
    assert changed == set()


@contextmanager
def redis_of_compose(given: Mapping[str, str]) -> Iterator[int]:
    """Run the command of the service `redis` on a free port of this machine, and yield the port."""
    if shutil.which("redis-server") is None:
        why = "Redis is not installed: apt-get install redis-server"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    service = interpolated(compose()["services"]["redis"], given)
    command = [*service["command"]]
    command[-1] += f" --port {port} --bind 127.0.0.1"
    own = {"PATH": os.environ["PATH"], **service["environment"]}
    running = subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL)
    try:
        kind, check = service["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        healthy = check.replace("redis-cli", f"redis-cli -p {port}")

        def pongs() -> bool:
            assert running.poll() is None
            done = subprocess.run(["sh", "-c", healthy], env=own, capture_output=True, check=False)
            return b"PONG" in done.stdout

        until(pongs)
        yield port
    finally:
        running.kill()
        running.wait()


def test_the_processes_work_together(postgres_url: str, picture: Picture, tmp_path: Path) -> None:
    """The server, PostgreSQL and Redis with the environment of all profiles, without containers.

    Names of hosts are replaced by this machine's address, and directories by temporary ones.
    """
    given = {name: "a1b2c3" for name in example() if name.endswith("PASSWORD")}
    given |= {"METRICS_KEY": "key-of-prometheus"}
    # As a user fills in the example.
    file = {
        name: value.replace("KEY_OF_CLIENTS", "key-of-clients")
        .replace("METRICS_KEY", given["METRICS_KEY"])
        .replace("PASSWORD", "a1b2c3")
        for name, value in example().items()
        if name in {"INFERENCE_API_KEYS", "INFERENCE_DATABASE_URL", "INFERENCE_REDIS_URL"}
    }
    services = interpolated(compose()["services"], given)
    used = file | {
        name: value
        for name, value in services["inference-server"]["environment"].items()
        if name.startswith("INFERENCE_")
    }
    database = services["postgres"]["environment"]
    user, name = database["POSTGRES_USER"], database["POSTGRES_DB"]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"create role {user} login password '{database['POSTGRES_PASSWORD']}'")
        connection.execute(f"create database {name} owner {user}")
    port = postgres_url.rsplit("/", 1)[0].rsplit(":", 1)[1]
    with redis_of_compose(given) as redis_port:
        here = {"@postgres/": f"@127.0.0.1:{port}/", "@redis:6379/": f"@127.0.0.1:{redis_port}/"}
        for was, now in here.items():
            assert sum(was in value for value in used.values()) == 1
            used = {variable: value.replace(was, now) for variable, value in used.items()}
        settings = {variable.removeprefix("INFERENCE_").lower(): v for variable, v in used.items()}
        with process(tmp_path, **settings) as server:
            body = {"image": picture.sent, "prompts": [{"type": "text", "text": "red circle"}]}
            sent = server.post("/v2/sam3/concept_segment", body, key="key-of-clients").json()
            status = f"/v2/requests/{sent['request_id']}/status"

            def completed() -> bool:
                told: str = server.get(status, key="key-of-clients").json()["status"]
                assert told != "FAILED"
                return told == "COMPLETED"

            until(completed)
            create = ("keys", "create", "--name", "slow", "--rate", "1/h")
            made = subprocess.run(
                [sys.executable, "-m", "inference_server.cli", *create],
                env=clean_environment() | used,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
            )
            slow = made.stdout.strip()
            until(lambda: server.get("/models", key=slow).status_code == 200)
            codes = [server.post(CONCEPT, body, key=slow).status_code for _ in range(2)]
            assert codes == [200, 429]
            keys = subprocess.run(
                ["redis-cli", "-p", str(redis_port), "--scan"],
                env={"PATH": os.environ["PATH"], "REDISCLI_AUTH": given["REDIS_PASSWORD"]},
                capture_output=True,
                text=True,
                check=True,
            )
            assert keys.stdout.strip(), "the rate is counted in Redis"
            # As Prometheus asks.
            bearer = {"authorization": f"Bearer {given['METRICS_KEY']}"}
            metrics = server.http.get("/metrics", headers=bearer)
            assert metrics.status_code == 200
            assert "inference_requests_total" in metrics.text
            server.signal_process(signal.SIGTERM)
            assert server.ended() == 0
    with psycopg.connect(postgres_url.rsplit("/", 1)[0] + f"/{name}") as connection:
        rows = connection.execute("select status from inference_jobs").fetchall()
    assert rows == [("COMPLETED",)]
