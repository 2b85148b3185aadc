"""`uvicorn inference_server.api.app:app` in a separate process."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from inference_server.auth import KeyRepository
from inference_server.database import Database
from tests.api.pictures import Picture, click, encoded, in_base64, iou, noise, plane
from tests.api.serving import ALICE, BOB, CONCEPT, TIMEOUT, VISUAL, Running, until
from tests.e2e.processes import PartialRequest
from tests.environment import clean_environment

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **clean_environment(),
    "INFERENCE_API_KEYS": f"{ALICE},{BOB}",
    "INFERENCE_LOG_LEVEL": "debug",
    "INFERENCE_FETCH_NETWORKS": "127.0.0.0/8",
}


@dataclass
class Process(Running):
    """A server in a process.

    Attributes:
        popen: The process.
        log: File with its output.
    """

    popen: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Uvicorn with all of its own log lines."""
    log = tmp_path_factory.mktemp("process") / "log"
    command = [
        *(sys.executable, "-m", "uvicorn", "inference_server.api.app:app"),
        *("--port", "0", "--log-level", "debug"),
    ]
    environment = {**ENVIRONMENT, "INFERENCE_DATA_DIR": str(log.parent / "data")}
    with log.open("wb") as file:
        popen = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
        try:

            def listens() -> re.Match[str] | None:
                assert popen.poll() is None, log.read_text()
                return re.search(r"running on (http://\S+) ", log.read_text())

            until(listens, TIMEOUT)
            found = listens()
            assert found
            with httpx.Client(base_url=found[1], timeout=TIMEOUT) as client:
                running = Process(found[1], client, popen, log)
                running.until_ready()
                yield running
        finally:
            popen.kill()
            popen.wait()


def test_serves(process: Process, picture: Picture) -> None:
    item = picture.scene.objects[0]
    (prediction,) = process.visual(picture.sent, click(item))
    assert iou(plane(prediction, picture.size), item.mask) > 0.8


def test_demo_weights_are_logged(process: Process) -> None:
    log = process.log.read_text()
    assert "Loaded sam3/demo (demo weights: they recognise generated shapes only)" in log


def test_probes_are_answered_while_a_large_image_is_encoded(process: Process) -> None:
    """The event loop does no heavy work, so it answers probes at all times.

    Nothing is timed, because the machine can be busy. A blocked loop would answer one or two probes
    per request, and its thread would use most of the processor time.
    """
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (40, 60, 3), np.uint8)
    large = np.kron(small, np.ones((100, 100, 1), np.uint8))
    under_way = threading.Event()
    statuses: list[int] = []

    def work(path: str, body: dict[str, Any]) -> None:
        with httpx.Client(base_url=process.url, headers={"x-api-key": ALICE}) as client:
            under_way.set()
            response = client.post(path, json=body, timeout=TIMEOUT)
            under_way.clear()
            statuses.append(response.status_code)

    def answered(path: str, body: dict[str, Any]) -> int:
        """Return the number of probes answered during a request, at most 20."""
        found = 0
        thread = threading.Thread(target=work, args=(path, body))
        thread.start()
        while thread.is_alive():
            # Limited, so that a long request does not add processor time for probes.
            if found < 20:
                assert process.http.get("/livez").is_success
                found += under_way.is_set()
            time.sleep(0.005)
        thread.join()
        return found

    loop_before, all_before = _processor_ticks(process.popen.pid)
    for path, prompts in ((VISUAL, {}), (CONCEPT, {"prompts": [{"text": "shape"}]})):
        # On a busy machine this thread may send too few probes; then try another image.
        # A blocked loop never answers five.
        for shade in range(10):
            large[0, 0] = shade
            body = {"image": in_base64(encoded(large, ".png")), **prompts}
            if answered(path, body) >= 5:
                break
        else:
            raise AssertionError(f"{path} blocks the probes")
    loop_after, all_after = _processor_ticks(process.popen.pid)
    assert set(statuses) == {200}
    assert loop_after - loop_before < 0.4 * (all_after - all_before)


def _processor_ticks(pid: int) -> tuple[int, int]:
    """Return the processor time of the first thread, which has the event loop, and of all."""

    def ticks(file: Path) -> int:
        fields = file.read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    return ticks(Path(f"/proc/{pid}/task/{pid}/stat")), ticks(Path(f"/proc/{pid}/stat"))


def test_keys_never_reach_the_log(process: Process, picture: Picture) -> None:
    """However they are sent, also with errors, and at the most verbose level."""
    http, secret = process.http, "inf_guess-s3cret"
    for key in (ALICE, BOB, secret):
        body = {"image": noise(700)}
        http.post(VISUAL, params={"api_key": key}, json=body)
        http.post(VISUAL, json={**body, "api_key": key})
        http.post(VISUAL, json=body, headers={"authorization": f"Bearer {key}"})
        http.post(VISUAL, json=body, headers={"x-api-key": key})
        http.post(VISUAL, json=body, auth=("x", key))
        http.post(CONCEPT, params={"api_key": key}, json={"prompts": 1, "api_key": key})
        http.get("/nothing", params={"api_key": key})
        http.get("/models", params={"api_key": key})
        address = {"type": "url", "value": f"http://127.0.0.1:1/x.png?api_key={key}"}
        http.post(VISUAL, params={"api_key": ALICE}, json={"image": address})
    log = process.log.read_text()
    assert "POST /sam3/visual_segment" in log
    assert "s3cret" not in log
    assert "api_key" not in log
    assert picture.sent["value"][:64] not in log


def test_stored_keys_never_reach_the_log_nor_metrics(process: Process) -> None:
    """Whether keys are valid, wrong, without credits, over their rate or revoked."""
    directory = process.log.parent / "data"
    database = Database(directory)
    store = KeyRepository(database)
    good, poor = store.create("good", scopes=("segment", "admin"))[0], store.create("x", credits=0)
    slow, gone = store.create("slow", rate="1/h"), store.create("gone")
    keys = [good, poor[0], slow[0], gone[0]]
    for key in keys:
        until(lambda key=key: process.get("/models", key=key).status_code == 200, TIMEOUT)  # type: ignore[misc]
    store.revoke(gone[1].id)
    until(lambda: process.get("/models", key=gone[0]).status_code == 401, TIMEOUT)
    statuses = set()

    def send_all() -> None:
        for key in [*keys, good[:-1] + ("A" if good[-1] != "A" else "B")]:
            body = {"image": noise(702)}
            for sent in (
                process.http.post(VISUAL, params={"api_key": key}, json=body),
                process.http.post(VISUAL, json={**body, "api_key": key}),
                process.http.post(VISUAL, json=body, auth=("x", key)),
                process.http.post("/segment/text", data={"api_key": key}, files={"a": b""}),
                process.http.get("/metrics", params={"api_key": key}),
            ):
                statuses.add(sent.status_code)
                assert key not in sent.text
                assert key.split("_", 2)[-1] not in str(sent.headers)

    send_all()
    with sqlite3.connect(directory / "jobs.sqlite", TIMEOUT) as broken:
        broken.execute("alter table inference_keys rename to elsewhere")
    try:
        send_all()
    finally:
        with sqlite3.connect(directory / "jobs.sqlite", TIMEOUT) as broken:
            broken.execute("alter table elsewhere rename to inference_keys")
            digests = broken.execute("select salt, digest from inference_keys").fetchall()
    database.close()
    broken.close()
    assert statuses == {200, 401, 402, 403, 422, 429, 503}
    log, metrics = process.log.read_text(), process.get("/metrics").text
    assert "no such table" in log
    for key in keys:
        assert key.split("_", 2)[2] not in log + metrics
    for pair in digests:
        for secret in pair:
            assert secret.hex() not in log + metrics
            assert str(secret) not in log + metrics


def test_log_lines_are_json_objects(process: Process, picture: Picture) -> None:
    """This is the format without a terminal; uvicorn's lines before startup are not JSON."""
    body = {"image": picture.sent, "prompts": [{"text": "red circle"}]}
    answer = process.post(CONCEPT, body, x_request_id="lines-1")
    assert answer.status_code == 200
    process.post(CONCEPT, {"image": {"type": "url", "value": "http://10.0.0.1/x.png?private"}})
    # The last line may be incomplete.
    printed = process.log.read_text().rpartition("\n")[0].splitlines()
    begin = next(n for n, line in enumerate(printed) if "Computing on" in line)
    lines = [json.loads(line) for line in printed[begin:]]
    for line in lines:
        assert {"timestamp", "level", "logger", "message"} <= line.keys()
        assert re.fullmatch(r"[\d-]+T[\d:.]+\+00:00", line["timestamp"])
    own = {line["logger"]: line for line in lines if line.get("request_id") == "lines-1"}
    # uvicorn's lines have the same format.
    assert own.keys() == {"inference_server.access", "uvicorn.access"}
    assert own["inference_server.access"]["route"] == CONCEPT
    assert own["inference_server.access"]["status"] == 200
    assert not any("private" in line for line in printed)


def test_a_stop_finishes_the_request_in_progress(process: Process) -> None:
    """Runs last, because it ends the process."""
    with PartialRequest(process, VISUAL, {"image": noise(701)}) as partial:
        process.popen.send_signal(signal.SIGTERM)
        until(lambda: "Shutting down" in process.log.read_text(), TIMEOUT)
        assert partial.finish().startswith(b"HTTP/1.1 200")
    assert process.popen.wait(TIMEOUT) in (0, -signal.SIGTERM)
    log = process.log.read_text()
    assert "Application shutdown complete" in log
    assert "Traceback" not in log
