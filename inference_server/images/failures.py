"""Error messages of this package: the cause, then the remedy.

Roboflow's clients recognise the failure by `Could not load input image. Cause: `.
"""

from __future__ import annotations

from inference_server.errors import ImageError, ImageTooLargeError

_PREFIX = "Could not load input image. Cause: "


def could_not_load(cause: str, remedy: str) -> ImageError:
    """Create the error for an image that cannot be fetched or decoded.

    Args:
        cause: One sentence without secrets, such as the query string of a URL.
        remedy: One sentence that tells the client or the operator what to do.
    """
    return ImageError(f"{_PREFIX}{cause} {remedy}")


def too_large(cause: str, remedy: str) -> ImageTooLargeError:
    """Create the error for an image over a limit; arguments as in `could_not_load`."""
    return ImageTooLargeError(f"{_PREFIX}{cause} {remedy}")


def over_byte_limit(max_bytes: int, setting: str = "INFERENCE_MAX_IMAGE_MB") -> ImageTooLargeError:
    """Create the error for an encoded image of more than `max_bytes` bytes.

    Args:
        max_bytes: The limit.
        setting: The setting that is the limit.
    """
    return too_large(
        f"The image file is larger than {_size(max_bytes)}.",
        "Send a smaller or more strongly compressed image; the limit is the server's setting "
        f"{setting}.",
    )


def _size(count: int) -> str:
    """Format a number of bytes, in MiB from 1 MiB on."""
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count} bytes"


class NotAuthorizedError(ImageError):
    """A trusted host refuses the credentials."""


def not_authorized(url: str, status: int) -> NotAuthorizedError:
    """Create the error for a trusted host that refuses the credentials.

    Args:
        url: What was requested, without secrets.
        status: Status of the response.
    """
    return NotAuthorizedError(
        f"{_PREFIX}{url} answered with status {status}. Check the token that is configured for "
        "this host on the server."
    )


class DamagedError(ValueError):
    """A file violates its format. The message completes the sentence `The JPEG file …`.

    It does not leave this package: `damaged` turns it into an `ImageError`.
    """


def damaged(kind: str, error: Exception | None = None) -> ImageError:
    """Create the error for a file that violates its format.

    Args:
        kind: Name of the format, such as `JPEG`.
        error: The cause; its message is used only if it is a `DamagedError`.
    """
    what = str(error) if isinstance(error, DamagedError) else "is truncated or damaged"
    # PNG and JPEG would lose the georeference of a TIFF file.
    again = "with `gdal_translate old.tif new.tif`" if kind == "TIFF" else "as PNG or JPEG"
    return could_not_load(
        f"The {kind} file {what}.",
        f"Check that the file opens elsewhere and was sent whole, or save it again {again}.",
    )
