"""The Dockerfile, built by Buildah; the image, run as Docker would run it, without an engine.

What an engine adds was not tested: limits of memory and CPU, restarts, published ports, and the
schedule of the health check.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inference_server.database import FILE
from tests.deploy.building import IMAGE, KEPT, ROOT, Builder, Container, ServerInImage, needed

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600)]

KEY = "key-of-the-test"
LARGEST = 5.2e9
"""Bytes of the image with CUDA, which were 4.81e9; CUDA's libraries and torch are most of them."""


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    """Buildah with the base and the image."""
    needed()
    kept = os.environ.get(KEPT)
    directory = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="image", dir="/var/tmp"))
    built = Builder(directory)
    try:
        if not built.has("docker.io/library/debian:bookworm-slim"):
            built.import_base()
        if not built.has(IMAGE):
            built.build(IMAGE)
        yield built
    finally:
        if not kept:
            built.close()


@pytest.fixture(scope="module")
def container(builder: Builder) -> Iterator[Container]:
    """A container of the image."""
    with builder.container(IMAGE) as made:
        yield made


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str], log: Path, container: Container, port: int
) -> Iterator[ServerInImage]:
    server = ServerInImage(command, log, container.uid, port)
    try:
        yield server
    finally:
        server.close()


def settings(port: int) -> dict[str, str]:
    return {"INFERENCE_PORT": str(port), "INFERENCE_API_KEYS": KEY, "INFERENCE_HOST": "127.0.0.1"}


def assert_answers(server: ServerInImage) -> None:
    """It is ready and finds the red circles of the bundled scene."""
    server.until_ready()
    image = base64.b64encode((ROOT / "inference_server/demo/scene.jpg").read_bytes()).decode()
    answer = server.http.post(
        "/sam3/concept_segment",
        headers={"x-api-key": KEY},
        json={
            "image": {"type": "base64", "value": image},
            "prompts": [{"type": "text", "text": "red circle"}],
        },
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["prompt_results"][0]["predictions"]


def healthy(container: Container, port: int) -> bool:
    """Run the health check of the image."""
    test = container.configuration["Healthcheck"]["Test"]
    assert test[0] == "CMD"
    command = container.command(*test[1:], INFERENCE_PORT=str(port))
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_image_is_configured_for_an_unprivileged_server(container: Container) -> None:
    configuration = container.configuration
    assert container.uid == 10001
    assert container.start == ["inference-server", "serve"]
    assert set(configuration["Volumes"]) == {"/data", "/weights"}
    assert set(configuration["ExposedPorts"]) == {"9001/tcp"}
    assert configuration["Healthcheck"]["StartPeriod"] == 15 * 60 * 10**9
    for name in ("data", "weights"):
        found = (container.root / name).stat()
        assert (found.st_uid, found.st_mode & 0o777) == (10001, 0o700)
    assert not any("TOKEN" in pair or "KEY" in pair for pair in configuration["Env"])


def test_the_image_has_nothing_that_serving_does_not_need(container: Container) -> None:
    environment = container.root / "opt/inference-server"
    (packages,) = environment.glob("lib/python3*/site-packages")
    assert not (packages / "triton").exists()
    assert not list(packages.rglob("*.a"))
    assert not (container.root / "src").exists()
    assert shutil.which("gcc", path=str(container.root / "usr/bin")) is None
    writable = [
        path for path in environment.rglob("*") if not path.is_symlink() and path.stat().st_mode & 2
    ]
    assert writable == []
    # Each file once, as in a layer.
    nbytes = sum(
        found.st_size
        for found in {
            (found.st_dev, found.st_ino): found
            for path in container.root.rglob("*")
            for found in [path.lstat()]
        }.values()
    )
    print(f"image: {nbytes / 1e9:.2f} GB")
    assert nbytes < LARGEST


def test_all_libraries_of_torch_are_found(container: Container) -> None:
    """CUDA's libraries that the image lacks would be missed on a GPU only."""
    script = (
        "cd /opt/inference-server/lib/python3*/site-packages;"
        "ldd torch/lib/*.so torch/_C*.so torchvision/*.so nvidia/cudnn/lib/*.so* | grep 'not found'"
    )
    found = subprocess.run(
        container.command("sh", "-c", script), capture_output=True, text=True, check=False
    )
    missing = {line.split()[0] for line in found.stdout.splitlines()}
    assert "libcuda.so.1" in missing, found.stderr
    # torchvision uses what torch has loaded.
    (packages,) = (container.root / "opt/inference-server").glob("lib/python3*/site-packages")
    inside = {path.name for path in packages.rglob("*.so*")}
    # The driver's library comes from the machine, by NVIDIA's container toolkit.
    assert missing - inside == {"libcuda.so.1"}


def test_it_serves_as_the_images_user_and_stops_at_sigterm(
    container: Container, tmp_path: Path
) -> None:
    port = free_port()
    assert not healthy(container, port)
    data = tmp_path / "data"
    command = container.command(*container.start, data=data, **settings(port))
    with running(command, tmp_path / "log", container, port) as server:
        assert_answers(server)
        print(f"ready after {server.seconds_to_ready:.1f} s")
        assert healthy(container, port)
        process = server.process()
        assert set(process.uids()) == {10001}
        assert server.stop() == 0, server.log()
    assert (data / FILE).stat().st_uid == container.uid


def test_it_serves_as_process_1_on_a_read_only_root(container: Container, tmp_path: Path) -> None:
    """As `docker run --read-only --tmpfs /tmp` with two volumes and without `--init`."""
    data, weights = tmp_path / "data", tmp_path / "weights"
    probe = ("sh", "-c", "touch /tmp/x /data/x /weights/x && ! touch /opt/x /etc/x && echo $$")
    done = subprocess.run(
        container.read_only(data, weights, *probe), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
    assert done.stderr.count("Read-only file system") == 2
    port = free_port()
    command = container.read_only(data, weights, *container.start, **settings(port))
    with running(command, tmp_path / "log", container, port) as server:
        assert_answers(server)
        assert server.stop() == 0, server.log()
    assert (data / FILE).stat().st_uid == container.uid
