"""Settings of a command: from the environment, overridden by its options."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from inference_server.engines.weights import SAM2_VERSIONS
from inference_server.settings import Settings, misspelled
from inference_server.settings.types import SettingsError

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

size_option = click.option(
    "--size",
    type=click.Choice(SAM2_VERSIONS),
    help="Answer boxes and points with SAM 2 of this size. Default: the model that "
    "INFERENCE_VISUAL_MODEL chooses, which is SAM 3 if its weights have a visual head.",
)
"""Option for the SAM 2 size of a command."""


def model_options(command: CommandT) -> CommandT:
    """Add the options for weights and device, named like their settings.

    Args:
        command: the function of a command.

    Returns:
        The same function with the options.
    """
    options = (
        click.option("--sam2-weights", help="SAM 2 weights; overrides INFERENCE_SAM2_WEIGHTS."),
        click.option("--sam3-weights", help="SAM 3 weights; overrides INFERENCE_SAM3_WEIGHTS."),
        click.option("--device", help="Device: auto, cpu, cuda, cuda:N or mps."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def settings_of(**options: object) -> Settings:
    """Read the settings from the environment, overridden by options; warn of unknown variables.

    Args:
        options: values of a command's options, by setting name; None if an option is not given.

    Returns:
        The settings.

    Raises:
        SystemExit: a value is invalid; the exit status is 2.
    """
    for name, similar in misspelled(os.environ).items():
        hint = f" Did you mean {similar}?" if similar else ""
        click.echo(f"Ignoring {name}: unknown setting.{hint}", err=True)
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]
    except SettingsError as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from None
