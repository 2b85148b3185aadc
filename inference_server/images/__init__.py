"""Images from clients: fetched under guard, decoded within bounds."""

from inference_server.images.decode import decode_base64, decode_image, image_size
from inference_server.images.fetch import ImageFetcher

__all__ = ["ImageFetcher", "decode_base64", "decode_image", "image_size"]
