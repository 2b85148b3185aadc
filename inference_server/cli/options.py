"""Settings of a command: the environment's, overridden by its options."""

from __future__ import annotations

import os

import click

from inference_server.settings import Settings, SettingsError, misspelled


def settings_of(**options: object) -> Settings:
    """Settings from the environment, overridden by the options that were given."""
    for name, meant in misspelled(os.environ).items():
        hint = f" Is {meant} meant?" if meant else ""
        click.echo(f"{name} is no setting, and is ignored.{hint}", err=True)
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]
    except SettingsError as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from None
