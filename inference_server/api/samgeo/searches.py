"""What a form asks of the models, about any image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from inference_server.api.dependencies import state_of, timings_of
from inference_server.api.samgeo.models import model_of
from inference_server.api.samgeo.prompts import automatic_options
from inference_server.auth import Tenant
from inference_server.engines.catalog import ModelKey
from inference_server.segmentation.types import (
    ConceptOptions,
    ConceptPrompt,
    ImageRef,
    SegmentationResult,
    VisualOptions,
    VisualPrompt,
)


class Searches:
    """Sends prompts about images to the models that a form selects.

    Args:
        request: the request.
        tenant: owner of the API key.
        form: the form's fields.

    Attributes:
        tenant: name of the owner.
    """

    def __init__(self, request: Request, tenant: Tenant, form: Any) -> None:
        self._timings = timings_of(request)
        self._segmenter = state_of(request).segmenter
        self.tenant = tenant.name
        self._form = form

    def model(self, version: str) -> ModelKey | None:
        """The model that `model_id` selects; None for the server's choice of SAM 3.

        Args:
            version: one of `MODEL_VERSIONS`.
        """
        return model_of(self._segmenter.catalog, version, self._form.model_id)

    async def concept(
        self, image: ImageRef, prompt: ConceptPrompt, nms: float | None = None
    ) -> SegmentationResult:
        """Find every instance of a concept.

        Args:
            image: the image.
            prompt: the concept.
            nms: maximum IoU of two masks, 0 to 1. Default: None, all are kept.
        """
        options = ConceptOptions(nms_iou_threshold=nms, within=True)
        return await self._segmenter.concept(
            self.tenant,
            image,
            [prompt],
            options,
            timings=self._timings,
            model=self.model("sam3"),
        )

    def visual_options(self, *, within: bool = True) -> VisualOptions:
        """One object per prompt, or three candidates per prompt, as the form says.

        Args:
            within: whether to refuse prompts outside the image. Default: true.
        """
        multimask = self._form.multimask_output
        return VisualOptions(multimask=multimask, best=not multimask, within=within)

    async def visual(self, image: ImageRef, prompts: Sequence[VisualPrompt]) -> SegmentationResult:
        """Segment the objects of prompts.

        Args:
            image: the image.
            prompts: the prompts, in pixels of the image.
        """
        return await self._segmenter.visual(
            self.tenant,
            image,
            prompts,
            self.visual_options(),
            timings=self._timings,
            model=self.model(self._form.model_version),
        )

    async def automatic(self, image: ImageRef) -> SegmentationResult:
        """Segment every object."""
        options = automatic_options(self._form)
        return await self._segmenter.automatic(
            self.tenant,
            image,
            options,
            timings=self._timings,
            model=self.model(self._form.model_version),
        )
