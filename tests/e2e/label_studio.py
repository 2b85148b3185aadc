"""Install and start the real Label Studio, in a virtual environment of its own.

It pins many packages, Django among them. `label_studio.txt` lists all of them, so that pip resolves
nothing. The environment stays in `build/` for the next run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.api.serving import TIMEOUT, until
from tests.readme import ROOT

PINS = Path(__file__).parent / "label_studio.txt"
LEGACY = "0123456789abcdef0123456789abcdef01234567"


def environment() -> Path:
    """Return a virtual environment with Label Studio, and make it if there is none."""
    digest = hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]
    place = ROOT / "build" / f"label-studio-{digest}"
    if (place / "complete").exists():
        return place
    for older in place.parent.glob("label-studio-*"):
        shutil.rmtree(older)
    venv.create(place, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin/python")]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]
    done = subprocess.run(
        [*pip, "install", *options, "-r", str(PINS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (place / "complete").touch()
    return place


@dataclass
class Studio:
    """A running Label Studio.

    Attributes:
        url: its URL.
        http: a client with the token of its user.
        python: the Python of its environment, which has `label_studio_sdk`.
        files: directory of which it serves local files, below `images`.
        log: file with its output.
    """

    url: str
    http: httpx.Client
    python: Path
    files: Path
    log: Path

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Call its API, and return the JSON of a response that must be a success."""
        response = self.http.request(method, path, **options)
        assert response.is_success, f"{response.status_code} {response.text}"
        return response.json() if response.content else None

    def create(self, label_config: str, *images: tuple[str, bytes]) -> tuple[int, list[int]]:
        """Create a project with uploaded images; return its id and those of its tasks."""
        made = self.call(
            "POST", "/api/projects", json={"title": "shapes", "label_config": label_config}
        )
        project: int = made["id"]
        for name, data in images:
            files = {name: (name, data, "image/png")}
            self.call("POST", f"/api/projects/{project}/import", files=files)
        return project, self.tasks(project)

    def tasks(self, project: int) -> list[int]:
        """Return the ids of a project's tasks."""
        found = self.call("GET", "/api/tasks", params={"project": project})["tasks"]
        return sorted(task["id"] for task in found)

    def connect(self, project: int, url: str, password: str, **options: Any) -> httpx.Response:
        """Connect an ML backend."""
        body = {"project": project, "url": url, "title": "SAM 3", "is_interactive": True}
        body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": "x", "basic_auth_pass": password}
        return self.http.post("/api/ml", json={**body, **options})

    def retrieve(self, project: int) -> dict[int, list[dict[str, Any]]]:
        """Retrieve predictions for all tasks of a project; return all predictions by task."""
        query = {"id": "retrieve_tasks_predictions", "project": project}
        every = {"selectedItems": {"all": True, "excluded": []}}
        self.call("POST", "/api/dm/actions", params=query, json=every)
        found: dict[int, list[dict[str, Any]]] = {task: [] for task in self.tasks(project)}
        for each in self.call("GET", "/api/predictions", params={"project": project}):
            found[each["task"]].append(each)
        return found

    def ask(self, backend: int, task: int, *items: Any) -> dict[str, Any]:
        """Ask a backend for an interactive prediction, as the editor does."""
        sent = {"task": task, "context": {"result": items}}
        answer = self.call("POST", f"/api/ml/{backend}/interactive-annotating", json=sent)
        assert not answer.get("errors"), answer
        found: dict[str, Any] = answer["data"]
        return found


@contextmanager
def studio(directory: Path) -> Iterator[Studio]:
    """Run Label Studio with SQLite.

    Args:
        directory: an empty directory for its data.
    """
    place = environment()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    files = directory / "files"
    (files / "images").mkdir(parents=True)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"INFERENCE_|DJANGO_|PYTHON|VIRTUAL_ENV|LABEL_STUDIO_", name)
    }
    settings = {
        "ML_BLOCK_LOCAL_IP": "false",
        "USE_DEFAULT_BANNED_SUBNETS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files),
    }
    options = ["start", "--no-browser", "--internal-host", "127.0.0.1", "-p", str(port)]
    options += ["--data-dir", str(directory / "data"), "--enable-legacy-api-token"]
    options += ["--username", "a@example.com", "--password", "a-password", "--user-token", LEGACY]
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(place / "bin/python"), str(place / "bin/label-studio"), *options],
            cwd=directory,
            env=clean | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(
            base_url=url,
            headers={"authorization": f"Token {LEGACY}"},
            timeout=TIMEOUT,
            follow_redirects=True,
        ) as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return client.get("/health").is_success
                except httpx.TransportError:
                    return False

            until(answers, 5 * TIMEOUT, 0.5)
            yield Studio(url, client, place / "bin/python", files, log)
    finally:
        process.kill()
        process.wait()
