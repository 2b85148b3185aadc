"""Image files whose structure, GDAL metadata and valid mask are read once, and their decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import ImageError, InferenceServerError
from inference_server.executor import WorkCancelledError, stop_if_cancelled
from inference_server.images.failures import DamagedError, could_not_load, damaged
from inference_server.images.file_bytes import Bytes
from inference_server.images.gdal import gdal, open_surveyed_tiff
from inference_server.images.headers import Header
from inference_server.images.orientation import upright
from inference_server.images.raster import OpenRaster
from inference_server.images.tiff import (
    MAX_METADATA_ITEMS,
    SIGNATURES,
    Tiff,
    survey_pages,
    survey_tiff,
)

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader


class RasterInfo(NamedTuple):
    """What GDAL reads of a TIFF file without reading its pixels.

    Attributes:
        crs: coordinate reference system, as stored in the file; None if it has none.
        transform: affine transform from (column, row) to map coordinates; identity if the file has
            none.
        size: (height, width) in pixels, as stored.
        may_be_invalid: whether some pixels may be without data; False if all are valid.
    """

    crs: CRS | None
    transform: Affine
    size: tuple[int, int]
    may_be_invalid: bool


class RasterFile:
    """An image file of which structure, GDAL metadata and valid mask are each read at most once.

    They are read when first needed. Create one per upload and pass it to all that need them; it may
    be used by several threads, one after the other. Files of other formats than TIFF are accepted.

    The metadata and the mask take two openings if the metadata are needed first: a mask takes
    memory by the image's size, so it must not be read before the image has passed the limit on
    pixels. A mask that needs no pixels, and metadata after the mask, need no second opening.

    Args:
        data: the image file.
        max_metadata_items: maximum number of metadata items; default 8192.
        bands: numbers of the bands to show, one or three. Default: see `raster`.

    Attributes:
        data: the image file.
    """

    def __init__(
        self,
        data: Bytes,
        *,
        max_metadata_items: int = MAX_METADATA_ITEMS,
        bands: Sequence[int] | None = None,
    ) -> None:
        self.data = data
        self._bands = bands
        self._max_metadata_items = max_metadata_items
        self._info: RasterInfo | None = None
        self._pages_surveyed = False

    @property
    def is_tiff(self) -> bool:
        """Whether the file says that it is a TIFF file."""
        return self.data[:4] in SIGNATURES

    @cached_property
    def survey(self) -> Tiff | None:
        """The first directory of the TIFF file; None for other formats.

        Raises:
            ImageError: the file is a damaged TIFF.
        """
        if not self.is_tiff:
            return None
        with blaming("TIFF"):
            found = survey_tiff(self.data)
            if not found.width or not found.height:
                raise DamagedError("has no pixels")
        return found

    @property
    def info(self) -> RasterInfo | None:
        """The metadata that GDAL reads; None for other formats than TIFF.

        Raises:
            ImageError: the file is damaged.
        """
        if self._info is None and self.survey is not None:
            with self._opened():
                pass
        return self._info

    @cached_property
    def valid(self) -> NDArray[np.bool_] | None:
        """Where the image has data: `bool[H, W]`, upright; None if it has data everywhere.

        False marks pixels without data: the nodata value, the file's mask, full transparency, NaN
        or infinity. Read it only of an image that `decode_picture` accepted: the limit on pixels is
        not checked again. None for files that are not TIFF, and for plain ones that GDAL cannot
        read. Pixels are read only if the file can have invalid ones.

        Raises:
            ImageError: the file is a damaged TIFF.
        """
        found = self.survey
        if found is None:
            return None
        try:
            return self._read_valid(found)
        except ImageError:
            if found.plain:  # Pillow decodes the image, so it does not depend on GDAL
                return None
            raise

    def _read_valid(self, found: Tiff) -> NDArray[np.bool_] | None:
        shape = found.height, found.width
        if self._info is not None and self._info.size == shape and not self._info.may_be_invalid:
            return None
        with self.opened(shape) as raster:
            if not raster.may_be_invalid:
                return None
            valid = np.ones(shape, np.bool_)
            for window in raster.windows():
                stop_if_cancelled()
                part = raster.read(window, with_values=raster.fractions)
                target = valid[window.toslices()]
                if part.known is not None:
                    target &= part.known.any(axis=0)
                if part.shown is not None:
                    target &= part.shown
        if valid.all():
            return None
        return upright(valid.view(np.uint8), found.orientation).view(np.bool_)

    @contextmanager
    def opened(self, shape: tuple[int, int]) -> Iterator[OpenRaster]:
        """Open the file to read its pixels.

        Args:
            shape: (height, width) in pixels that the header states, as stored.

        Raises:
            ImageError: the file is damaged, also if GDAL notices it later; or its values are
                complex numbers.
            RequestError: the file lacks one of the bands.
        """
        with self._opened() as dataset:
            yield self.checked(dataset, shape)

    def checked(self, dataset: DatasetReader, shape: tuple[int, int]) -> OpenRaster:
        """Check an open dataset against the header, and choose its bands; see `opened`."""
        if dataset.shape != shape:
            raise DamagedError("contradicts itself about its size")
        if _is_complex(dataset):
            raise could_not_load(
                "The TIFF file has complex numbers, whose brightness is not defined.",
                "Send their magnitude, or another real quantity.",
            )
        return OpenRaster(dataset, self._bands)

    def survey_all(self) -> None:
        """Check the structure of the whole file, which GDAL reads when it opens the file.

        Raises:
            ImageError: the file is damaged, or no TIFF.
        """
        if self.survey is None:
            raise damaged("TIFF")
        if not self._pages_surveyed:
            with blaming("TIFF"):
                survey_pages(self.data, max_metadata_items=self._max_metadata_items)
            self._pages_surveyed = True

    @contextmanager
    def _opened(self) -> Iterator[DatasetReader]:
        """Open the file with GDAL, once it has been surveyed; every failure is an `ImageError`."""
        self.survey_all()
        with blaming("TIFF"), gdal(), open_surveyed_tiff(self.data) as dataset:
            if self._info is None:
                height, width = dataset.shape
                self._info = RasterInfo(
                    dataset.crs,
                    dataset.transform,
                    (int(height), int(width)),
                    _is_complex(dataset) or OpenRaster(dataset).may_be_invalid,
                )
            yield dataset


@contextmanager
def blaming(kind: str) -> Iterator[None]:
    """Turn every failure inside this context into an `ImageError` about the file.

    GDAL fails in many ways on damaged files. Other errors that a client may get pass.

    Args:
        kind: name of the format, such as `TIFF`.
    """
    try:
        yield
    except (InferenceServerError, WorkCancelledError):
        raise
    except Exception as error:
        raise damaged(kind, error) from error


def _is_complex(dataset: DatasetReader) -> bool:
    return any(kind.startswith("complex") for kind in dataset.dtypes)


def decode_raster(
    data: bytes, header: Header, *, max_metadata_items: int = MAX_METADATA_ITEMS
) -> NDArray[np.uint8]:
    """Decode a TIFF file with GDAL to the colours that `raster` describes.

    Its memory is that of the result, of a few windows of two megapixels, and of one of the file's
    tiles or strips if that is larger.

    Args:
        data: the file.
        header: its header, checked against the limit on pixels.
        max_metadata_items: maximum number of metadata items; default 8192.

    Returns:
        `uint8[H, W, 3]`, RGB, as stored.

    Raises:
        ImageError: the values are complex numbers, or the file is damaged.
    """
    file = RasterFile(data, max_metadata_items=max_metadata_items)
    with file.opened((header.height, header.width)) as raster:
        colours = raster.colours()
        pixels = np.zeros((header.height, header.width, 3), np.uint8)
        for window in raster.windows():
            stop_if_cancelled()
            raster.draw(window, colours, pixels[window.toslices()])
        return pixels
