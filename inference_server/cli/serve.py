"""`inference-server serve`: run the server."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable

import click

from inference_server import __version__
from inference_server.cli.console import STOPPING, cannot_listen, check_models, url_of
from inference_server.cli.keys import has_stored_keys
from inference_server.cli.options import model_options, settings_of
from inference_server.demo import SAMPLE
from inference_server.observability.logging import configure_logging, in_text
from inference_server.settings import Settings

logger = logging.getLogger(__name__)

_LAST_SECONDS = 2.0
"""Seconds to wait at exit for worker threads whose results are no longer needed."""


@click.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on; 0 selects a free one.")
@model_options
@click.option(
    "--preload",
    multiple=True,
    metavar="VERSION:MODEL_ID",
    help="Model to load before the server is ready, such as sam2:sam2-hiera-large or "
    "sam3:facebook/sam3. Repeatable.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least severe log lines to write.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    help="Format of the log; auto is text on a terminal and JSON elsewhere.",
)
@click.option(
    "--cluster",
    is_flag=True,
    help="Serve on Ray, on this machine or on the cluster at INFERENCE_CLUSTER_ADDRESS.",
)
def serve(preload: tuple[str, ...], cluster: bool, **options: str | int | None) -> None:
    """Serve the HTTP APIs until interrupted.

    Options override the environment variables INFERENCE_<NAME>.
    """
    settings = settings_of(preload=",".join(preload) or None, **options)
    made = settings.auth == "on" and not settings.api_keys and not has_stored_keys(settings)
    if made:
        from inference_server.auth import generate_key

        settings = settings.model_copy(update={"api_keys": (generate_key(),)})

    def say(text: str) -> None:
        if in_text(settings):
            click.echo(text, err=True)
        else:
            logger.info("%s", text)

    def announce(url: str) -> None:
        say(f"inference-server {__version__} on {url}")
        if made:
            _greet(url, settings.api_keys[0])
        else:
            say(f"Playground: {url}/")

    if cluster:
        from inference_server.cli.cluster import serve_on_cluster

        serve_on_cluster(settings, say, announce)
    else:
        _serve_here(settings, say, announce)


def _serve_here(
    settings: Settings, say: Callable[[str], None], announce: Callable[[str], None]
) -> None:
    """Serve with the engines in this process."""
    from inference_server.api.app import create_app
    from inference_server.api.protocol import server_config
    from inference_server.api.server import Server
    from inference_server.executor import end_all

    check_models(settings)
    app = create_app(settings)
    config = server_config(
        app,
        settings,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=5,  # `Server` has drained before
    )
    configure_logging(settings)  # after uvicorn has configured its own

    try:
        listener = config.bind_socket()
    except SystemExit:  # uvicorn has printed the reason
        raise cannot_listen(settings) from None
    announce(url_of(*listener.getsockname()[:2]))

    def stopping() -> None:
        say(STOPPING)

    server = Server(config, lambda: app.state.server, stopping)
    server.run(sockets=[listener])
    if not server.started:
        raise SystemExit(3)
    if not end_all(_LAST_SECONDS):  # a long forward pass would delay the exit
        sys.stderr.flush()
        os._exit(0)


def _greet(url: str, key: str) -> None:
    """Print the generated key of this run, with a link to the playground and a curl command.

    Browsers do not send what follows the `#`, and the page removes it from the address. A key that
    the operator has configured is never printed.
    """
    click.echo(
        f"INFERENCE_API_KEYS is not set; the API key of this run is {key}\n"
        f"Open the playground: {url}/#key={key}\n"
        "Or, once the log says Ready, send a request from another terminal:\n\n"
        f"curl -s '{url}/sam3/concept_segment?api_key={key}' \\\n"
        "  -H 'content-type: application/json' -d @- <<END\n"
        '{"image": {"type": "base64", "value": "'
        f"$(base64 < {shlex.quote(str(SAMPLE))} | tr -d '\\n')\"}},\n"
        ' "prompts": [{"type": "text", "text": "red circle"}]}\n'
        "END\n",
        err=True,
    )
