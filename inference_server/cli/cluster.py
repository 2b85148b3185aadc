"""`inference-server serve --cluster`."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click

from inference_server.cli.console import STOPPING, cannot_listen, check_models, url_of
from inference_server.observability.logging import configure_logging, in_text
from inference_server.settings import Settings


def serve_on_cluster(
    settings: Settings, say: Callable[[str], None], announce: Callable[[str], None]
) -> None:
    """Serve until interrupted, with engines on Ray.

    Args:
        settings: of the server.
        say: tells the operator something.
        announce: tells the address, once there is somebody at it.
    """
    try:
        from inference_server.cluster.launcher import ClusterError, on_cluster
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "ray":
            raise
        raise click.ClickException(
            "--cluster takes Ray: pip install 'inference-server[cluster]', or in a checkout "
            ".venv/bin/pip install -r requirements/cluster.txt"
        ) from None
    configure_logging(settings)
    if not settings.cluster_address:
        check_models(settings)
    port = _free_port(settings)
    settings = settings.model_copy(
        update={
            "port": port.getsockname()[1],
            # Replicas have other working directories, and no terminal.
            "data_dir": str(Path(settings.data_dir).resolve()),
            "log_format": "text" if in_text(settings) else "json",
        }
    )
    where = settings.cluster_address or "this machine"
    say(f"Starting replicas on {where}: half a minute or more, each loads its models")
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        ended.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        with port, on_cluster(settings):
            signal.signal(signal.SIGINT, end)
            signal.signal(signal.SIGTERM, end)
            announce(url_of(settings.host, settings.port))
            while not ended.wait(1.0):
                pass
            say(STOPPING)
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        if not ended.is_set():
            say("Stopped before all replicas were there")
        raise SystemExit(130) from None
    say("Stopped")


def _free_port(settings: Settings) -> socket.socket:
    """A socket at the port to listen on, which nobody has: Ray would share it with another server.

    It does not listen. While it is open nobody else is given the port, and Ray shares it.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((settings.host, settings.port))
            trial.listen()
        except OSError:
            raise cannot_listen(settings) from None
        address = trial.getsockname()
    held = socket.socket(family)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind(address)
    except OSError:
        held.close()
        raise cannot_listen(settings) from None
    return held
