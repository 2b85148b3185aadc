"""Fetch clients' images through a guarded client and decode them within limits."""

from inference_server.images.base64 import decode_base64
from inference_server.images.decode import Picture, decode_image, decode_picture, is_slow
from inference_server.images.failures import NotAuthorizedError, could_not_load
from inference_server.images.fetch import ImageFetcher
from inference_server.images.headers import Header, read_header
from inference_server.images.trusted_host import TrustedHost

__all__ = [
    "Header",
    "ImageFetcher",
    "NotAuthorizedError",
    "Picture",
    "TrustedHost",
    "could_not_load",
    "decode_base64",
    "decode_image",
    "decode_picture",
    "is_slow",
    "read_header",
]
