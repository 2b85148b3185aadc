"""Whether an image is segmented by windows or encoded as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inference_server.errors import ImageTooLargeError
from inference_server.images.raster_source import RasterSource
from inference_server.settings import MiB, Settings


@dataclass(frozen=True, slots=True)
class WindowChoice:
    """How an API decides.

    Attributes:
        max_bytes: maximum size of a file that is encoded as a whole; None for that of the source.
        setting: setting of `max_bytes`, for error messages.
        refuses_others: whether `tile_size` is refused for a larger image that is no TIFF file;
            otherwise such an image is encoded as a whole.
    """

    max_bytes: int | None
    setting: str
    refuses_others: bool

    @classmethod
    def of_uploads(cls) -> WindowChoice:
        """That of forms which are rasters: their size was checked when they were received."""
        return cls(None, "INFERENCE_MAX_UPLOAD_MB", refuses_others=True)

    @classmethod
    def of_images(cls, settings: Settings) -> WindowChoice:
        """That of images from anywhere, which have a limit of their own.

        Args:
            settings: the limit.
        """
        megabytes = settings.max_image_mb
        return cls(megabytes * MiB, "INFERENCE_MAX_IMAGE_MB", refuses_others=False)

    def uses_windows(
        self,
        source: RasterSource,
        tiles: Literal["auto", "always", "never"],
        tile_size: int | None,
        settings: Settings,
    ) -> bool:
        """Whether a file is segmented by windows; call it in a worker thread.

        Args:
            source: the file.
            tiles: what the request says. `auto`: if the image is too large to be encoded as a
                whole, or larger than `tile_size`.
            tile_size: side of a window in pixels that the request says; None if it says none.
            settings: limits of an image.

        Raises:
            ImageTooLargeError: the image is too large to be encoded as a whole, and has to be.
            ImageError: the file is damaged, or cannot be read by windows.
        """
        limits = settings.max_image_pixels, settings.max_image_side
        if tiles == "always":
            source.check()
            return True
        fits = source.fits(*limits) and (self.max_bytes is None or source.nbytes <= self.max_bytes)
        if tiles == "never":
            if not fits:
                raise ImageTooLargeError(
                    "The image is too large to be encoded as a whole, and tiles is never. Send "
                    "tiles auto or a smaller image, or raise INFERENCE_MAX_IMAGE_PIXELS, "
                    f"INFERENCE_MAX_IMAGE_SIDE or {self.setting} on the server."
                )
            return False
        is_larger = tile_size is not None and max(source.size) > tile_size
        if is_larger and (source.is_tiff or self.refuses_others):
            source.check()
            return True
        if fits:
            return False
        if not source.needs_windows(*limits):  # its pixels are few, its bytes are many
            source.check()
        return True
