"""Images that are encoded as a whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import cv2
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import state_of, timings_of
from inference_server.api.responses import respond
from inference_server.api.samgeo.prompts import SamgeoPrompts, concept_prompt
from inference_server.api.samgeo.results import RenderOptions, SamgeoObjects, headers, media_type
from inference_server.api.samgeo.searches import Searches
from inference_server.errors import NothingFoundError
from inference_server.geo import GeoRaster
from inference_server.images.raster_source import RasterSource
from inference_server.images.window import Window
from inference_server.segmentation.types import (
    EncodedImage,
    ImageRef,
    SegmentationResult,
    StoredImage,
)

Search = Callable[[ImageRef], Awaitable[SegmentationResult]]
"""Searches an image for objects."""


class WholeImage:
    """Runs prompts on an image that is encoded as a whole, and responds with the objects.

    Args:
        request: the request.
        form: the form's fields.
        image: the image.
        file: its file; its georeference and valid mask are read once.
        searches: sends prompts to the models.
        crs: CRS of coordinates in GeoJSON; None for that of the image.
    """

    def __init__(
        self,
        request: Request,
        form: Any,
        image: StoredImage,
        file: GeoRaster,
        searches: Searches,
        crs: str | None,
    ) -> None:
        self._request = request
        self._form = form
        self._image = ImageRef(file=image)
        self._file = file
        self._searches = searches
        self._crs = crs

    async def answer(
        self, search: Search, options: RenderOptions, nothing: str | None = None
    ) -> Response:
        """Search the image, and respond with the objects.

        Args:
            search: searches an image.
            options: how the objects are rendered.
            nothing: error message if no object remains; default None, for an empty response.

        Raises:
            NothingFoundError: no object remains, and `nothing` is given.
        """
        return await self._respond(await search(self._image), options, nothing)

    async def predict(
        self, prompts: SamgeoPrompts, options: RenderOptions, nothing: str
    ) -> Response:
        """Segment by points and boxes, and respond with the objects.

        Args:
            prompts: points and boxes in pixels.
            options: how the objects are rendered.
            nothing: error message if no object remains.

        Raises:
            NothingFoundError: no object remains.
        """
        results = []
        if self._form.model_version != "sam3":
            results.append(await self._searches.visual(self._image, prompts.objects()))
        else:
            if len(prompts.boxes):
                alike = concept_prompt(boxes=prompts.boxes)
                results.append(await self._searches.concept(self._image, alike))
            if len(prompts.points):
                pointed = [prompts.object_of_points]
                results.append(await self._searches.visual(self._image, pointed))
        joined = SegmentationResult(
            EncodedImage.joined([result.image for result in results]),
            [each for result in results for each in result.instances],
        )
        return await self._respond(joined, options, nothing)

    async def _respond(
        self, result: SegmentationResult, options: RenderOptions, nothing: str | None
    ) -> Response:
        form, timings = self._form, timings_of(self._request)

        def render() -> object:
            with timings.measure("masks"):
                objects = SamgeoObjects.of(
                    result,
                    self._file,
                    options,
                    min_size=form.min_size,
                    max_size=form.max_size,
                    crs=self._crs,
                )
            if nothing is not None and not objects.instances:
                raise NothingFoundError(nothing)
            return objects.render(form.output_format)

        await state_of(self._request).segmenter.in_slow_thread(self._file.read)
        name = form.output_format
        return await respond(self._request, result.image, render, media_type(name), headers(name))


def stored_image(source: RasterSource, bands: tuple[int, ...] | None) -> StoredImage:
    """Read the file of an image that is encoded as a whole.

    Args:
        source: the file.
        bands: the bands to show; None for those that the file says. Otherwise the image is a new
            file of these bands, because the bytes of a file are its key in the cache.

    Raises:
        RequestError: the image lacks a band.
        ImageError: the image cannot be decoded.
        ImageTooLargeError: the file is too large.
    """
    if bands is None:
        return StoredImage(source.content(), source.digest)
    with source.reader(bands) as reader:
        height, width = reader.size
        pixels = reader.read(Window(0, 0, width, height)).pixels
    _, file = cv2.imencode(".bmp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return StoredImage.of(file.tobytes())
