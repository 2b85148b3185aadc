"""Rasters that are segmented by windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import state_of, timings_of
from inference_server.api.file_response import compresses, respond_with_file
from inference_server.api.samgeo.prompts import SamgeoPrompts, concept_prompt
from inference_server.api.samgeo.raster_results import (
    FewObjects,
    Objects,
    RasterObjects,
    check_output,
)
from inference_server.api.samgeo.results import RASTERS, RenderOptions, headers, media_type
from inference_server.api.samgeo.searches import Searches
from inference_server.api.samgeo.whole import Search
from inference_server.errors import NothingFoundError
from inference_server.geo import GeoReference
from inference_server.images.window_reader import WindowReader
from inference_server.segmentation.prompts import cut_to_image
from inference_server.segmentation.tiling import (
    SeamOptions,
    TiledObjects,
    checked_tile_size,
    plan_grid,
    segment_tiled,
    tile_size_of,
    with_exemplars,
)
from inference_server.segmentation.tiling.around import segment_prompts
from inference_server.segmentation.types import (
    AutomaticOptions,
    EncodedImage,
    Instance,
    TilingOptions,
    VisualPrompt,
)

Box = tuple[float, float, float, float]


class RasterByWindows:
    """Runs prompts on the windows of a raster, and responds with the objects, joined.

    Args:
        request: the request.
        form: the form's fields.
        reader: reads the raster by windows.
        reference: the raster's georeference; None if it has none.
        searches: sends prompts to the models.
        crs: CRS of coordinates in GeoJSON; None for that of the raster.
    """

    def __init__(
        self,
        request: Request,
        form: Any,
        reader: WindowReader,
        reference: GeoReference | None,
        searches: Searches,
        crs: str | None,
    ) -> None:
        self._request = request
        self._form = form
        self._reader = reader
        self._reference = reference
        self._searches = searches
        self._crs = crs
        state = state_of(request)
        self._segmenter = state.segmenter
        self._settings = state.settings

    async def answer(
        self, search: Search, options: RenderOptions, nothing: str | None = None
    ) -> Response:
        """Search all windows, and respond with the objects.

        Args:
            search: searches an image.
            options: how the objects are rendered.
            nothing: error message if no object remains; default None, for an empty response.

        Raises:
            NothingFoundError: no object remains, and `nothing` is given.
        """
        check_output(self._form.output_format, options)
        with TiledObjects.of(self._settings, self._reader.size) as objects:
            image = await self._search(
                search, objects, self._form.nms_iou_threshold, by_clicks=options.by_area
            )
            return await self._respond(image, objects, options, nothing)

    async def predict(
        self, prompts: SamgeoPrompts, options: RenderOptions, nothing: str
    ) -> Response:
        """Segment the windows around points and boxes, and respond with the objects.

        With SAM 3, boxes are exemplars: they are encoded in windows of their own, and all windows
        are searched.

        Args:
            prompts: points and boxes in pixels of the raster.
            options: how the objects are rendered.
            nothing: error message if no object remains.

        Raises:
            NothingFoundError: no object remains.
            RequestError: a prompt lies outside the raster.
        """
        size = self._reader.size
        if self._form.model_version != "sam3" or not len(prompts.boxes):
            image, found = await self._around(prompts.objects())
            return await self._respond(image, FewObjects(size, found), options, nothing)
        with TiledObjects.of(self._settings, size) as objects:
            images = [await self._alike(prompts, objects)]
            if len(prompts.points):
                image, found = await self._around([prompts.object_of_points])
                images.append(image)
                for each in found:
                    if not each.mask.is_empty:
                        objects.add(each)
            return await self._respond(EncodedImage.joined(images), objects, options, nothing)

    async def _alike(self, prompts: SamgeoPrompts, objects: TiledObjects) -> EncodedImage:
        """Search all windows for objects like those in boxes."""
        searches = self._searches
        [prompt] = await with_exemplars(
            self._segmenter,
            searches.tenant,
            self._reader,
            [concept_prompt(boxes=prompts.boxes)],
            await self._side_of_windows("concept"),
            timings=timings_of(self._request),
            model=searches.model("sam3"),
        )
        return await self._search(lambda image: searches.concept(image, prompt), objects)

    async def _search(
        self,
        search: Search,
        objects: TiledObjects,
        nms: float | None = None,
        *,
        by_clicks: bool = False,
    ) -> EncodedImage:
        """Search all windows.

        Args:
            search: searches an image.
            objects: receives the objects.
            nms: maximum IoU of two masks, 0 to 1. Default: None, that of automatic masks, and for
                concepts all are kept.
            by_clicks: whether prompts are points of a window, as those of automatic masks, instead
                of concepts. Default: false.
        """
        form, settings = self._form, self._settings
        side = await self._tile_size("visual" if by_clicks else "concept")
        tiling = TilingOptions(form.tile_size, form.tile_overlap)
        grid = plan_grid(settings, self._reader.size, tiling, side)
        if by_clicks and nms is None:
            nms = AutomaticOptions().mask_nms_threshold
        result = await segment_tiled(
            self._segmenter,
            self._reader,
            lambda image, window: search(image),
            grid,
            SeamOptions.of(settings, nms_iou_threshold=nms, by_prompt=not by_clicks),
            objects=objects,
            settings=settings,
        )
        assert result.image is not None  # noqa: S101 - there is no journal
        return result.image

    async def _around(self, objects: Sequence[VisualPrompt]) -> tuple[EncodedImage, list[Instance]]:
        """Segment objects in the windows around their points and boxes."""
        objects = cut_to_image(self._reader.size, objects, refuse=True)
        tile_size = await self._side_of_windows("visual")
        result = await segment_prompts(
            *(self._segmenter, self._searches.tenant, self._reader, objects),
            self._searches.visual_options(within=False),
            tile_size,
            timings=timings_of(self._request),
            model=self._searches.model(self._form.model_version),
        )
        return result.image, result.instances

    async def _side_of_windows(self, prompts: Literal["concept", "visual"]) -> int:
        """Side of the windows in pixels; raises `PromptError` if the form's is out of range."""
        side = await self._tile_size(prompts)
        return checked_tile_size(self._settings, self._form.tile_size, side)

    async def _tile_size(self, prompts: Literal["concept", "visual"]) -> int:
        version = "sam3" if prompts == "concept" else self._form.model_version
        return await tile_size_of(self._segmenter, prompts, self._searches.model(version))

    async def _respond(
        self,
        image: EncodedImage,
        objects: Objects,
        options: RenderOptions,
        nothing: str | None,
    ) -> Response:
        form, name = self._form, self._form.output_format
        kept = await self._segmenter.in_slow_thread(
            lambda: RasterObjects.of(
                objects,
                self._reference,
                options,
                min_size=form.min_size,
                max_size=form.max_size,
                crs=self._crs,
            )
        )
        if nothing is not None and not len(kept):
            raise NothingFoundError(nothing)
        compress = name not in RASTERS and compresses(self._request)

        def write(path: Path) -> None:
            kept.write(path, name, self._settings.max_raster_response_mb, compress=compress)

        extra = dict(headers(name))
        if compress:
            extra["content-encoding"] = "gzip"
        return await respond_with_file(self._request, image, write, media_type(name), extra)
