"""The command line: `inference-server serve | models | openapi`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson

from inference_server import __version__
from inference_server.demo import SAMPLE
from inference_server.settings import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Serve SAM 2 and SAM 3 over HTTP.

    Every setting can be given in the environment as INFERENCE_<NAME>; README.md lists them.
    """


def _settings(**options: object) -> Settings:
    """Settings from the environment, overridden by the options that were given."""
    from pydantic import ValidationError

    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        for item in error.errors():
            name = "INFERENCE_" + str(item["loc"][0]).upper()
            click.echo(f"{name}: {item['msg']}", err=True)
        raise SystemExit(2) from None


@main.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--sam2-weights", help="SAM 2 weights, as INFERENCE_SAM2_WEIGHTS.")
@click.option("--sam3-weights", help="SAM 3 weights, as INFERENCE_SAM3_WEIGHTS.")
@click.option("--device", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
def serve(
    host: str | None,
    port: int | None,
    sam2_weights: str | None,
    sam3_weights: str | None,
    device: str | None,
    log_level: str | None,
) -> None:
    """Serve until interrupted."""
    settings = _settings(
        host=host,
        port=port,
        sam2_weights=sam2_weights,
        sam3_weights=sam3_weights,
        device=device,
        log_level=log_level,
    )
    key = settings.api_keys.split(",")[0].strip()
    if settings.auth == "on" and not key:
        from inference_server.auth import generate_key

        key = generate_key()
        settings = settings.model_copy(update={"api_keys": key})
        _greet(settings, key)
    import uvicorn

    from inference_server.app import create_app

    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=30,
    )


def _greet(settings: Settings, key: str) -> None:
    """Show the key of the run, in a command that can be pasted."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    click.echo(
        f"No INFERENCE_API_KEYS: the API key of this run is {key}\n"
        "Try it from another terminal, once the log says Ready:\n\n"
        f"  curl -s 'http://{host}:{settings.port}/sam3/concept_segment?api_key={key}' \\\n"
        "    -H 'content-type: application/json' -d @- <<END\n"
        '  {"image": {"type": "base64", "value": "'
        f"$(base64 < {SAMPLE} | tr -d '\\n')\"}},\n"
        '   "prompts": [{"type": "text", "text": "red circle"}]}\n'
        "END\n",
        err=True,
    )


@main.command()
def models() -> None:
    """List the models that the settings name."""
    from inference_server.engines.registry import ModelRegistry
    from inference_server.errors import ModelUnavailableError

    try:
        registry = ModelRegistry(_settings())
    except ModelUnavailableError as error:
        raise click.ClickException(error.message) from None
    click.echo(f"sam3  sam3/sam3_final  {registry.concept_name}")
    for version, name in registry.versions.items():
        click.echo(f"sam2  {version:<15}  {name}")
    click.echo(f"on {registry.compute.device} in {registry.compute.dtype}")


@main.command()
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path))
def openapi(output: Path | None) -> None:
    """Write the OpenAPI document."""
    from inference_server.app import OPERATIONS
    from inference_server.openapi import build_document

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    document = orjson.dumps(build_document(OPERATIONS, __version__), option=options)
    if output is None:
        sys.stdout.buffer.write(document)
    else:
        output.write_bytes(document)


if __name__ == "__main__":
    main()
