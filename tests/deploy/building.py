"""Build the Dockerfile with Buildah, and run the image without a container engine.

Buildah's chroot isolation creates no control groups. It needs root, and either the capability to
mount or the storage driver `vfs`, which copies everything. The base image is made by debootstrap,
with this machine's mirror, package configuration and certificates, because a registry of images may
be out of reach.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.waiting import until

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/debian:bookworm-slim"
IMAGE = "localhost/inference-server:test"
PROGRAMS = {"buildah": "buildah", "debootstrap": "debootstrap"}
"""Debian's package of each program."""
KEPT = "TEST_IMAGE_STORE"
"""Environment variable: a directory that keeps the images, for repeated runs by hand."""


def needed() -> None:
    """Without the programs or root, skip the test, or fail it in CI."""
    missing = [package for name, package in PROGRAMS.items() if shutil.which(name) is None]
    why = f"not installed: apt-get install {' '.join(missing)}" if missing else ""
    if not missing and os.getuid() != 0:
        why = "Buildah's chroot isolation and debootstrap need root"
    if why and os.environ.get("CI"):
        pytest.fail(why)
    if why:
        pytest.skip(why)


def mirror() -> list[str]:
    """Return this machine's mirror of Debian 12; nothing, for debootstrap's own, if it has none."""
    if shutil.which("apt-get"):
        targets = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        for line in targets.splitlines():
            site, _, release = line.partition(" ")
            if release == "bookworm":
                return [site]
    return []


def pip_configuration() -> configparser.ConfigParser:
    """Return this machine's options of pip, except directories, which an image does not have."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    options: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        # Variables have the section `:env:` and count more than files, which come first.
        options[name.rpartition(".")[2]] = shlex.split(value)[0]
    for name in ("find-links", "extra-index-url"):
        kept = [word for word in options.get(name, "").split() if not re.match(r"/|file:", word)]
        options[name] = "\n".join(kept)
    written = configparser.ConfigParser(interpolation=None)
    written["global"] = {
        name: value for name, value in options.items() if value and name != "constraint"
    }
    return written


def make_base(directory: Path) -> None:
    """Make a minimal Debian 12 with this machine's configuration of packages and certificates."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", "bookworm", directory, *mirror()],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for file in Path("/etc/apt/apt.conf.d").glob("*"):
        if "Acquire" in file.read_text():
            shutil.copy(file, directory / "etc/apt/apt.conf.d")
    for name in ("usr/local/share/ca-certificates", "etc/ssl/certs"):
        found = [*Path("/", name).glob("*.crt")]
        for file in found:
            (directory / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, directory / name)
    with (directory / "etc/pip.conf").open("w") as written:
        pip_configuration().write(written)
    # As in the published image.
    shutil.rmtree(directory / "var/lib/apt/lists")
    for archive in (directory / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()


class Builder:
    """Buildah with a storage of its own.

    Args:
        directory: directory for images and containers.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        policy = directory / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        registries = directory / "registries.conf"
        registries.write_text('unqualified-search-registries = ["docker.io"]\n')
        self._policy = f"--signature-policy={policy}"
        self._options = [
            *("--root", str(directory / "storage"), "--runroot", str(directory / "run")),
            *("--registries-conf", str(registries), "--storage-driver", self._driver()),
        ]

    def _driver(self) -> str:
        """Overlays if this process may mount them, otherwise copies."""
        lower, upper, work, merged = (
            self.directory / "probe" / name for name in ("lower", "upper", "work", "merged")
        )
        for path in (lower, upper, work, merged):
            path.mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mounted = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, merged],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            return "vfs"
        subprocess.run(["umount", merged], check=True)
        return "overlay"

    def command(self, *arguments: str) -> list[str]:
        """Return a command of Buildah that uses this storage."""
        return ["buildah", *self._options, *arguments]

    def run(self, *arguments: str) -> str:
        """Run a command of Buildah, and return its output without the final newline."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"buildah {' '.join(arguments)}:\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Whether the storage has an image."""
        found = subprocess.run(
            self.command("inspect", "--type", "image", image), capture_output=True, check=False
        )
        return found.returncode == 0

    def import_base(self) -> None:
        """Import the base under the name that the Dockerfile uses."""
        root = self.directory / "base"
        make_base(root)
        container = self.run("from", self._policy, "scratch")
        self.run("add", "--quiet", container, str(root), "/")
        self.run("config", "--cmd", "bash", container)
        self.run("commit", self._policy, "--quiet", "--rm", container, BASE)
        shutil.rmtree(root)

    def build(self, image: str, **build_arguments: str) -> None:
        """Build the Dockerfile.

        Args:
            image: name of the image.
            build_arguments: arguments of the Dockerfile.
        """
        given = [f"--build-arg={name}={value}" for name, value in build_arguments.items()]
        self.run(
            *("bud", self._policy, "--isolation", "chroot", "--network", "host", "--pull=false"),
            # HEALTHCHECK is not a part of OCI's format.
            *("--format", "docker", "--tag", image, *given, str(ROOT)),
        )

    def configuration(self, image: str) -> dict[str, Any]:
        """Return the configuration of an image, as Docker names it."""
        found: dict[str, Any] = json.loads(self.run("inspect", "--type", "image", image))
        configuration: dict[str, Any] = found["Docker"]["config"]
        return configuration

    @contextmanager
    def container(self, image: str) -> Iterator[Container]:
        """Make a container of an image, and remove it afterwards."""
        name = self.run("from", self._policy, "--pull-never", image)
        try:
            yield Container(self, name, self.configuration(image))
        finally:
            self.run("rm", name)

    def close(self) -> None:
        """Remove all images and containers."""
        self.run("rm", "--all")
        self.run("rmi", "--all", "--force")
        shutil.rmtree(self.directory)


class Container:
    """A container that is not running.

    Args:
        builder: the builder that made it.
        name: name of the container.
        configuration: configuration of its image.

    Attributes:
        root: its file system, mounted.
    """

    def __init__(self, builder: Builder, name: str, configuration: Mapping[str, Any]) -> None:
        self._builder = builder
        self._name = name
        self.configuration = configuration
        self.root = Path(builder.run("mount", name))

    @property
    def start(self) -> list[str]:
        """The command that engines run."""
        return [*self.configuration["Entrypoint"], *self.configuration["Cmd"]]

    def command(self, *command: str, data: Path | None = None, **environment: str) -> list[str]:
        """Return what runs a command in the container, as the image's user.

        Args:
            command: the command.
            data: directory for `/data`. Default: a new volume.
            environment: variables besides those of the image.
        """
        options = ["--isolation", "chroot", "--network", "host"]
        options += [f"--env={name}={value}" for name, value in environment.items()]
        if data is not None:
            self._give(data)
            options.append(f"--volume={data}:/data")
        return self._builder.command("run", *options, self._name, "--", *command)

    def read_only(self, data: Path, weights: Path, *command: str, **environment: str) -> list[str]:
        """Return what runs a command as the image's user, as process 1, on a read-only root.

        Args:
            data: directory for `/data`.
            weights: directory for `/weights`.
            command: the command.
            environment: variables besides those of the image.
        """
        script = """
            root=$1 data=$2 weights=$3 user=$4; shift 4
            mount --bind "$root" "$root"
            mount -o remount,bind,ro "$root"
            mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
            mount --bind "$data" "$root/data"
            mount --bind "$weights" "$root/weights"
            mount -t proc proc "$root/proc"
            mount --rbind /dev "$root/dev"
            mount --rbind /sys "$root/sys"
            exec chroot --userspec="$user:$user" "$root" env -i "$@"
        """
        user = str(self.uid)
        self._give(data)
        self._give(weights)
        variables = [*self.configuration["Env"], *(f"{k}={v}" for k, v in environment.items())]
        return [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script, "sh"),
            *(str(self.root), str(data), str(weights), user, *variables, *command),
        ]

    def _give(self, directory: Path) -> None:
        """Make a directory of the image's user."""
        directory.mkdir(exist_ok=True)
        os.chown(directory, self.uid, self.uid)

    @property
    def uid(self) -> int:
        """The id of the image's user."""
        name = self.configuration["User"]
        for line in (self.root / "etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if name in fields[:1] + fields[2:3]:
                return int(fields[2])
        raise AssertionError(f"the image has no user {name}")


class ServerInImage:
    """A server that runs in a container.

    Args:
        command: command that runs it.
        log: file for its output.
        uid: id of the user that it must run as.
        port: port that it listens on.
    """

    def __init__(self, command: list[str], log: Path, uid: int, port: int) -> None:
        self._log = log
        self._uid = uid
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        with log.open("wb") as written:
            self._popen = subprocess.Popen(command, stdout=written, stderr=written)
        self.seconds_to_ready = 0.0

    def until_ready(self) -> None:
        """Wait until the models are loaded."""
        begin = time.monotonic()

        def ready() -> bool:
            assert self._popen.poll() is None, self._log.read_text()
            try:
                return self.http.get("/readyz").is_success
            except httpx.TransportError:
                return False

        until(ready, 600, 0.2)
        self.seconds_to_ready = time.monotonic() - begin

    def process(self) -> psutil.Process:
        """Return the server's process; Buildah's last one has its user, too."""
        family = psutil.Process(self._popen.pid).children(recursive=True)
        found = [
            process
            for process in family
            if process.uids().real == self._uid and "buildah" not in process.cmdline()[0]
        ]
        assert found, [(process.cmdline(), process.uids()) for process in family]
        return found[0]

    def stop(self) -> int:
        """Send SIGTERM to the server, as engines do, and return the exit status."""
        self.process().send_signal(signal.SIGTERM)
        return self._popen.wait(120)

    def close(self) -> None:
        """Kill it if it still runs."""
        self.http.close()
        if self._popen.poll() is None:
            for process in psutil.Process(self._popen.pid).children(recursive=True):
                process.kill()
            self._popen.wait(60)

    def log(self) -> str:
        """Return its output."""
        return self._log.read_text()
