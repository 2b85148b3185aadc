"""`inference-server openapi`: write the OpenAPI document."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson

from inference_server import __version__


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. Default: standard output.",
)
def openapi(output: Path | None) -> None:
    """Write the OpenAPI document as JSON."""
    from inference_server.api.app import OPERATIONS
    from inference_server.api.openapi import build_document

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    document = orjson.dumps(build_document(OPERATIONS, __version__), option=options)
    if output is None:
        sys.stdout.buffer.write(document)
    else:
        output.write_bytes(document)
