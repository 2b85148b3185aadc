"""`inference-server serve --cluster`: run the server on Ray."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import closing
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
        settings: the server's settings.
        say: prints or logs a message for the operator.
        announce: called with the server's URL once it accepts requests.

    Raises:
        ClickException: Ray is not installed, the port is in use, or the cluster cannot run the
            server.
        SystemExit: interrupted before all replicas were ready; the exit status is 130.
    """
    try:
        from inference_server.cluster.launcher import ClusterError, on_cluster
        from inference_server.cluster.port import SharedPort
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "ray":
            raise
        raise click.ClickException(
            "--cluster needs Ray. Install it in a checkout of the repository: "
            ".venv/bin/pip install -r requirements/cluster.txt, or pip install '.[cluster]'."
        ) from None
    configure_logging(settings)
    held = _free_port(settings)
    if not settings.cluster_address:
        check_models(settings)
    settings = settings.model_copy(
        update={
            "port": held.getsockname()[1],
            # Replicas run in other working directories and without a terminal.
            "data_dir": str(Path(settings.data_dir).resolve()),
            "log_format": "text" if in_text(settings) else "json",
        }
    )
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        ended.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    # On this machine, connections wait in the socket's queue while no ingress runs.
    port = SharedPort(settings.host, settings.port)
    try:
        port.claim()
        if settings.cluster_address:
            held.close()
        else:
            port.share(held)
    except PermissionError as error:
        raise click.ClickException(str(error)) from None
    except OSError:
        raise cannot_listen(settings) from None
    where = settings.cluster_address or "this machine"
    say(f"Starting replicas on {where}; loading the models takes half a minute or more")
    try:
        with held, closing(port), on_cluster(settings):
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
            say("Stopped before all replicas were ready")
        raise SystemExit(130) from None
    say("Stopped")


def _free_port(settings: Settings) -> socket.socket:
    """Reserve the port that the ingresses will listen on, and fail if another server uses it.

    Returns:
        A bound socket that does not listen. While it is open, no other process is given the port.

    Raises:
        ClickException: the port is in use.
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
    try:
        held.bind(address)
    except OSError:
        held.close()
        raise cannot_listen(settings) from None
    return held
