"""Requests and responses of Roboflow's SAM 3 and SAM 2 endpoints.

The names are those of Roboflow's OpenAPI documents. Fields keep the value that was sent; where
several forms mean the same, a property (`mask_format`, `corners`, `labels`, `kind`, `thresholds`)
gives the normalised value.
"""

from schemas.roboflow.concept import (
    ConceptFormat,
    Sam3Prompt,
    Sam3PromptEcho,
    Sam3PromptResult,
    Sam3SegmentationFields,
    Sam3SegmentationForm,
    Sam3SegmentationRequest,
    Sam3SegmentationResponse,
)
from schemas.roboflow.image import (
    EmbeddingFields,
    EmbeddingForm,
    EmbeddingRequest,
    EmbeddingResponse,
    ImageFields,
    ImageForgotten,
    ImageForm,
    ImageRequest,
    InferenceRequestImage,
    Sam2EmbeddingFields,
    Sam2EmbeddingForm,
    Sam2EmbeddingRequest,
    Sam2Version,
)
from schemas.roboflow.models import (
    AddModelRequest,
    ClearModelRequest,
    ModelDescriptionEntity,
    ModelsDescriptions,
    ServerVersionInfo,
)
from schemas.roboflow.prediction import PredictionOptions, SegmentationPrediction
from schemas.roboflow.raster_jobs import ConceptJobRequest, JobSource, VisualJobRequest
from schemas.roboflow.visual import (
    Sam2Prompt,
    Sam2PromptList,
    Sam2PromptResult,
    Sam2Prompts,
    Sam2PromptSet,
    Sam2SegmentationFields,
    Sam2SegmentationForm,
    Sam2SegmentationRequest,
    Sam2SegmentationResponse,
    VisualFormat,
    VisualSegmentationFields,
    VisualSegmentationForm,
    VisualSegmentationRequest,
)
from schemas.roboflow.windows import WindowOptions

__all__ = [
    "AddModelRequest",
    "ClearModelRequest",
    "ConceptFormat",
    "ConceptJobRequest",
    "EmbeddingFields",
    "EmbeddingForm",
    "EmbeddingRequest",
    "EmbeddingResponse",
    "ImageFields",
    "ImageForgotten",
    "ImageForm",
    "ImageRequest",
    "InferenceRequestImage",
    "JobSource",
    "ModelDescriptionEntity",
    "ModelsDescriptions",
    "PredictionOptions",
    "Sam2EmbeddingFields",
    "Sam2EmbeddingForm",
    "Sam2EmbeddingRequest",
    "Sam2Prompt",
    "Sam2PromptList",
    "Sam2PromptResult",
    "Sam2PromptSet",
    "Sam2Prompts",
    "Sam2SegmentationFields",
    "Sam2SegmentationForm",
    "Sam2SegmentationRequest",
    "Sam2SegmentationResponse",
    "Sam2Version",
    "Sam3Prompt",
    "Sam3PromptEcho",
    "Sam3PromptResult",
    "Sam3SegmentationFields",
    "Sam3SegmentationForm",
    "Sam3SegmentationRequest",
    "Sam3SegmentationResponse",
    "SegmentationPrediction",
    "ServerVersionInfo",
    "VisualFormat",
    "VisualJobRequest",
    "VisualSegmentationFields",
    "VisualSegmentationForm",
    "VisualSegmentationRequest",
    "WindowOptions",
]
