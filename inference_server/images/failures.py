"""How this package words its failures: what happened, then what the client can do.

`Could not load input image. Cause: ` is what clients of the Roboflow contract know the failure by.
"""

from __future__ import annotations

from inference_server.errors import ImageError, ImageTooLargeError

_PREFIX = "Could not load input image. Cause: "


def could_not_load(cause: str, remedy: str) -> ImageError:
    """Builds the error for an image that cannot be fetched or decoded.

    Args:
        cause: one sentence; holds nothing secret, such as the query string of a URL.
        remedy: what the client, or the operator, can do about it.
    """
    return ImageError(f"{_PREFIX}{cause} {remedy}")


def too_large(cause: str, remedy: str) -> ImageTooLargeError:
    """Builds the error for an image over a limit. Arguments as in `could_not_load`."""
    return ImageTooLargeError(f"{_PREFIX}{cause} {remedy}")


def over_byte_limit(max_bytes: int) -> ImageTooLargeError:
    """Builds the error for an encoded image of more than `max_bytes` bytes."""
    return too_large(
        f"The image file is larger than {_size(max_bytes)}.",
        "Send a smaller or more strongly compressed image; the limit is the server's setting "
        "INFERENCE_MAX_IMAGE_MB.",
    )


def _size(count: int) -> str:
    """Words a number of bytes, in MiB where it is that large."""
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count} bytes"


class DamagedError(ValueError):
    """A file breaks the rules of its format. The message completes `The JPEG file …`.

    It stays inside this package, where `damaged` turns it into an `ImageError`.
    """


def damaged(kind: str, error: Exception | None = None) -> ImageError:
    """Builds the error for a file that does not keep to its own format.

    Args:
        kind: the format's name.
        error: what was found, worded only if it is a `DamagedError`.
    """
    what = str(error) if isinstance(error, DamagedError) else "is truncated or damaged"
    return could_not_load(
        f"The {kind} file {what}.",
        "Check that the file opens elsewhere and was sent whole, or save it again as PNG or JPEG.",
    )
