"""`serve --cluster`: start, errors, and cleanup of all processes that it started."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from inference_server.cluster.port import SharedPort
from tests.api.pictures import Picture, click, iou, plane
from tests.api.serving import ALICE, TIMEOUT, VISUAL, until
from tests.e2e.processes import process
from tests.environment import clean_environment


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process."""
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={**clean_environment(), "INFERENCE_API_KEYS": ALICE},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_without_ray_the_error_names_the_package() -> None:
    ended = run(
        "import sys",
        "sys.modules['ray'] = None",
        "from inference_server.cli import main",
        "main(['serve', '--cluster'])",
    )
    assert ended.returncode == 1
    assert "requirements/cluster.txt" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_an_error_before_anything_starts() -> None:
    """Otherwise Serve would share the port with the other server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(
            "from inference_server.cli import main",
            f"main(['serve', '--cluster', '--port', '{port}'])",
        )
    assert ended.returncode == 1
    assert f"Cannot listen on http://127.0.0.1:{port}" in ended.stderr
    assert "Starting" not in ended.stderr
    assert "INFERENCE_DTYPE" not in ended.stderr, "no model is prepared before"


def test_a_server_that_is_starting_has_its_port() -> None:
    """It does not listen yet, so the port can be bound."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        starting = SharedPort("127.0.0.1", free.getsockname()[1])
        starting.claim()
        try:
            ended = run(
                "from inference_server.cli import main",
                f"main(['serve', '--cluster', '--port', '{free.getsockname()[1]}'])",
            )
        finally:
            starting.close()
    assert ended.returncode == 1
    assert "Cannot listen on http://127.0.0.1:" in ended.stderr
    assert "Starting" not in ended.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "here"])
def test_an_unreachable_cluster_is_an_error(address: str) -> None:
    ended = run(
        "import os",
        f"os.environ['INFERENCE_CLUSTER_ADDRESS'] = {address!r}",
        "from inference_server.cli import main",
        "main(['serve', '--cluster', '--port', '0'])",
    )
    assert ended.returncode == 1
    assert f"INFERENCE_CLUSTER_ADDRESS={address}: " in ended.stderr, ended.stderr
    assert "ray start --head" in ended.stderr


LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def of(process: psutil.Process) -> str:
    """Return the title of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def addresses(processes: list[psutil.Process]) -> set[str]:
    """Return the IP addresses on which processes listen."""
    found = set()
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            listening = [c for c in each.net_connections("inet") if c.status == "LISTEN"]
            found |= {connection.laddr.ip for connection in listening}
    return found


@pytest.mark.cluster
def test_it_serves_and_stops_all_its_processes(
    tmp_path: Path, picture: Picture, capfd: pytest.CaptureFixture[str]
) -> None:
    with process(tmp_path, options=("--cluster",), preload="") as server:
        started = psutil.Process(server.popen.pid).children(recursive=True)
        assert len(started) >= 5, "Ray, and a process for each replica"
        assert not addresses(started) - LOOPBACK, "Ray's ports are not reachable from outside"
        item = picture.one("red square")
        for _ in range(2):
            (found,) = server.visual(picture.sent, click(item))
            assert iou(plane(found, picture.size), item.mask) > 0.8
        body = {"image": picture.sent, "prompts": {"prompts": [click(item)]}}
        assert server.post(VISUAL, body).headers["x-embedding-cache"] == "hit"
        assert len(server.concept(picture.sent, "red circle")[0]) == 2
        # Ray forwards the log lines of the replicas with a delay.
        until(lambda: server.log.read_text().count("POST /sam3/visual_segment 200") >= 3)
        replicas = [each for each in started if "ServeReplica:inference-server" in of(each)]
        assert {each.nice() for each in replicas} == {psutil.Process().nice()}
        # The only ingress is killed: its connections break, and new ones wait for its successor.
        (ingress,) = (each for each in replicas if "Replica:inference-server:ingress" in of(each))
        ingress.kill()
        with httpx.Client(base_url=server.url, timeout=600) as client:
            answer = client.post(VISUAL, headers={"x-api-key": ALICE}, json=body)
        assert answer.status_code == 200, answer.text
        started += psutil.Process(server.popen.pid).children(recursive=True)
        server.signal_process(signal.SIGTERM)
        assert server.ended() == 0, server.log.read_text()
        _, alive = psutil.wait_procs(started, TIMEOUT)
        assert not alive
    lines = server.log.read_text().splitlines()
    assert "graceful_shutdown failed" not in capfd.readouterr().out
    told = [json.loads(line)["message"] for line in lines if line.startswith("{")]
    assert "Stopped" in told
    asked = [message for message in told if message.startswith("POST /sam3/visual_segment 200")]
    assert len(asked) == 4, "no line is dropped, repeated or prefixed"


@pytest.mark.cluster
def test_it_can_be_stopped_during_the_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "inference_server.cli", "serve", "--cluster", "--port=0"]
        environment = {**clean_environment(), "INFERENCE_API_KEYS": ALICE}
        server = psutil.Popen(command, env=environment, cwd=tmp_path, stderr=file)

    def starting() -> bool:
        assert server.poll() is None, log.read_text()
        for each in server.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # some of Ray's processes end at once
                if "ServeReplica" in " ".join(each.cmdline()):
                    return True
        return False

    try:
        until(starting, pause=0.2)
        started = server.children(recursive=True)
        server.send_signal(signal.SIGTERM)
        assert server.wait(TIMEOUT) == 130, log.read_text()
        _, alive = psutil.wait_procs(started, TIMEOUT)
        assert not alive
    finally:
        if server.poll() is None:
            server.kill()
    assert "Stopped before all replicas were ready" in log.read_text()
    assert "Traceback" not in log.read_text()
