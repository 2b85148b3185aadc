"""The command line: `inference-server`, one module per command."""

from __future__ import annotations

import atexit
import gc

import click

from inference_server import __version__
from inference_server.cli.bench import bench
from inference_server.cli.keys import keys
from inference_server.cli.models import models
from inference_server.cli.openapi import openapi
from inference_server.cli.segment import segment
from inference_server.cli.serve import serve

# The interpreter's final garbage collection would traverse all of PyTorch for seconds, although
# the operating system frees the memory anyway.
atexit.register(gc.freeze)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Segment images with SAM 1, SAM 2 and SAM 3, over HTTP or from files to files.

    Environment variables INFERENCE_<NAME> configure all commands; docs/settings.md lists them.
    """


for _command in (serve, segment, bench, keys, models, openapi):
    main.add_command(_command)
