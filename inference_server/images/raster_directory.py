"""Open files of one directory by the names that clients send, and no others."""

from __future__ import annotations

import os
import stat
from typing import IO

from inference_server.errors import ImageError
from inference_server.images.failures import could_not_load

_MAX_NAME = 1024
_MAX_PARTS = 32


def check_name(directory: str, name: str) -> list[str]:
    """Refuse what can name no file, without looking into the directory.

    Args:
        directory: path of the directory; empty if there is none.
        name: path of the file relative to it, with `/` between its parts.

    Returns:
        The parts of the name.

    Raises:
        ImageError: there is no directory, or the name is not allowed.
    """
    if not directory:
        raise could_not_load(
            "This server has no directory of rasters.",
            "Send the file or its URL, or ask the operator to set INFERENCE_RASTER_DIRECTORY.",
        )
    parts = name.split("/")
    if (
        len(name) > _MAX_NAME
        or len(parts) > _MAX_PARTS
        or any(part in ("", ".", "..") for part in parts)
        or not name.isprintable()
    ):
        raise could_not_load(
            "The raster's name is not a path inside the server's directory of rasters.",
            "Send a relative path without `.` and `..`, such as 2026/north.tif.",
        )
    return parts


def open_in(directory: str, name: str) -> IO[bytes]:
    """Open a regular file inside a directory; call it in a worker thread.

    Each part of the name is opened inside the one before, and never a link, so that nothing outside
    the directory is opened, whatever changes meanwhile.

    Args:
        directory: path of the directory, which may be a link itself; empty if there is none.
        name: path of the file relative to it, with `/` between its parts.

    Returns:
        The file, open to read.

    Raises:
        ImageError: there is no directory, no such file, or the name is not allowed.
    """
    parts = check_name(directory, name)
    opened = -1
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for number, part in enumerate(parts, 1):
            # Opening a pipe would wait for a writer.
            flags = os.O_NONBLOCK if number == len(parts) else os.O_DIRECTORY
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=opened)
            os.close(opened)
            opened = inner
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise _unknown(name)
        return os.fdopen(opened, "rb")
    except (OSError, ValueError):  # a name that cannot be encoded is a ValueError
        if opened >= 0:
            os.close(opened)
        raise _unknown(name) from None
    except ImageError:
        os.close(opened)
        raise


def _unknown(name: str) -> ImageError:
    return could_not_load(
        f"The server's directory of rasters has no file {name[:100]!r} that it can read.",
        "Check the name; links are not followed.",
    )
