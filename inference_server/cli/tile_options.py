"""Options of `segment` for rasters: windows, bands and coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from inference_server.settings import Settings

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _bands(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    from inference_server.errors import RequestError
    from inference_server.images.raster import parse_bands

    try:
        return parse_bands(value)
    except RequestError as error:
        raise click.BadParameter(error.message) from None


def tile_options(command: CommandT) -> CommandT:
    """Add the options for rasters.

    Args:
        command: the function of a command.

    Returns:
        The same function with the options.
    """
    options = (
        click.option(
            "--tiles",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            show_default=True,
            help="Segment TIFF files by windows, and join what the windows cut. auto: those that "
            "are too large to be encoded as a whole, or larger than a given --tile-size.",
        ),
        click.option(
            "--tile-size",
            type=int,
            metavar="PIXELS",
            help="Side of a window in pixels of the file. Default: that of the model's input.",
        ),
        click.option(
            "--tile-overlap",
            type=int,
            metavar="PIXELS",
            help="Pixels that neighbouring windows share. Default: an eighth of --tile-size.",
        ),
        click.option(
            "--bands",
            callback=_bands,
            metavar="R,G,B",
            help="Bands of a TIFF file to show as red, green and blue, such as 3,2,1; one for "
            "grey. Default: those that the file says.",
        ),
        click.option(
            "--geojson-crs",
            metavar="EPSG",
            help="CRS of --format geojson, such as 4326. Default: that of the image.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def check_tiles(settings: Settings, tile_size: int | None, overlap: int | None) -> None:
    """Check the size and overlap of windows.

    Args:
        settings: the limits.
        tile_size: side of a window in pixels; None for the default.
        overlap: pixels that windows share; None for the default.

    Raises:
        UsageError: a value is out of range.
    """
    least, most = settings.min_tile_size, settings.max_tile_size
    if tile_size is not None and not least <= tile_size <= most:
        raise click.UsageError(
            f"--tile-size must be {least} to {most} pixels, not {tile_size}. The limits are "
            "INFERENCE_MIN_TILE_SIZE and INFERENCE_MAX_TILE_SIZE."
        )
    if overlap is None:
        return
    side = most if tile_size is None else tile_size
    if not 0 <= 2 * overlap < side:
        raise click.UsageError(
            f"--tile-overlap must be 0 or more and less than half of --tile-size, not {overlap}."
        )
