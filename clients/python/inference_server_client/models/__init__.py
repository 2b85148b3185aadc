"""Contains all the data models used in inputs/outputs"""

from .add_model_request import AddModelRequest
from .automatic_request import AutomaticRequest
from .automatic_request_model_version import AutomaticRequestModelVersion
from .automatic_request_output_format import AutomaticRequestOutputFormat
from .automatic_request_tiles import AutomaticRequestTiles
from .box_collection import BoxCollection
from .box_feature import BoxFeature
from .box_label_number import BoxLabelNumber
from .box_properties import BoxProperties
from .center_box import CenterBox
from .checkpoint import Checkpoint
from .checkpoint_family import CheckpointFamily
from .clear_model_request import ClearModelRequest
from .coco_rle import CocoRle
from .concept_format import ConceptFormat
from .concept_job_request import ConceptJobRequest
from .corner_box import CornerBox
from .crs_name import CrsName
from .detection import Detection
from .detection_list import DetectionList
from .embedding_fields import EmbeddingFields
from .embedding_form import EmbeddingForm
from .embedding_request import EmbeddingRequest
from .embedding_response import EmbeddingResponse
from .error_detail import ErrorDetail
from .error_message import ErrorMessage
from .health import Health
from .health_status import HealthStatus
from .image_forgotten import ImageForgotten
from .inference_request_image import InferenceRequestImage
from .inference_request_image_type import InferenceRequestImageType
from .job_deleted import JobDeleted
from .job_deleted_status import JobDeletedStatus
from .job_failed import JobFailed
from .job_image import JobImage
from .job_metrics import JobMetrics
from .job_progress import JobProgress
from .job_result import JobResult
from .job_result_status import JobResultStatus
from .job_source import JobSource
from .job_source_type import JobSourceType
from .job_status import JobStatus
from .job_status_status import JobStatusStatus
from .job_submitted import JobSubmitted
from .label_row_item import LabelRowItem
from .label_studio_context import LabelStudioContext
from .label_studio_error import LabelStudioError
from .label_studio_error_request import LabelStudioErrorRequest
from .label_studio_health import LabelStudioHealth
from .label_studio_item import LabelStudioItem
from .label_studio_model_version import LabelStudioModelVersion
from .label_studio_params import LabelStudioParams
from .label_studio_predict_request import LabelStudioPredictRequest
from .label_studio_predict_response import LabelStudioPredictResponse
from .label_studio_prediction import LabelStudioPrediction
from .label_studio_received import LabelStudioReceived
from .label_studio_region import LabelStudioRegion
from .label_studio_region_value import LabelStudioRegionValue
from .label_studio_setup_request import LabelStudioSetupRequest
from .label_studio_setup_request_extra_params import LabelStudioSetupRequestExtraParams
from .label_studio_task import LabelStudioTask
from .label_studio_task_data import LabelStudioTaskData
from .label_studio_value import LabelStudioValue
from .label_studio_versions import LabelStudioVersions
from .mask_collection import MaskCollection
from .mask_feature import MaskFeature
from .mask_properties import MaskProperties
from .model_description_entity import ModelDescriptionEntity
from .models_cleared import ModelsCleared
from .models_descriptions import ModelsDescriptions
from .models_response import ModelsResponse
from .models_response_models import ModelsResponseModels
from .named_crs import NamedCrs
from .point import Point
from .polygon_geometry import PolygonGeometry
from .predict_request import PredictRequest
from .predict_request_model_version import PredictRequestModelVersion
from .predict_request_output_format import PredictRequestOutputFormat
from .predict_request_tiles import PredictRequestTiles
from .prompt_type import PromptType
from .result_format import ResultFormat
from .sam_2_embedding_fields import Sam2EmbeddingFields
from .sam_2_embedding_form import Sam2EmbeddingForm
from .sam_2_embedding_request import Sam2EmbeddingRequest
from .sam_2_prompt import Sam2Prompt
from .sam_2_prompt_result import Sam2PromptResult
from .sam_2_prompt_set import Sam2PromptSet
from .sam_2_segmentation_fields import Sam2SegmentationFields
from .sam_2_segmentation_form import Sam2SegmentationForm
from .sam_2_segmentation_request import Sam2SegmentationRequest
from .sam_2_segmentation_response import Sam2SegmentationResponse
from .sam_2_version import Sam2Version
from .sam_3_image_request import Sam3ImageRequest
from .sam_3_prompt import Sam3Prompt
from .sam_3_prompt_echo import Sam3PromptEcho
from .sam_3_prompt_echo_type import Sam3PromptEchoType
from .sam_3_prompt_result import Sam3PromptResult
from .sam_3_prompt_type import Sam3PromptType
from .sam_3_segmentation_fields import Sam3SegmentationFields
from .sam_3_segmentation_form import Sam3SegmentationForm
from .sam_3_segmentation_request import Sam3SegmentationRequest
from .sam_3_segmentation_response import Sam3SegmentationResponse
from .sam_v2_image_request import SamV2ImageRequest
from .segmentation_prediction import SegmentationPrediction
from .segmentation_prediction_format import SegmentationPredictionFormat
from .segmind_failure import SegmindFailure
from .segmind_images import SegmindImages
from .server_info import ServerInfo
from .server_info_links import ServerInfoLinks
from .server_version_info import ServerVersionInfo
from .space_error import SpaceError
from .space_inputs import SpaceInputs
from .space_label import SpaceLabel
from .space_predict_request import SpacePredictRequest
from .space_predict_response import SpacePredictResponse
from .space_request import SpaceRequest
from .space_response import SpaceResponse
from .text_request import TextRequest
from .text_request_backend import TextRequestBackend
from .text_request_output_format import TextRequestOutputFormat
from .text_request_tiles import TextRequestTiles
from .tiles import Tiles
from .top_left_box import TopLeftBox
from .validation_error_item import ValidationErrorItem
from .validation_error_response import ValidationErrorResponse
from .visual_format import VisualFormat
from .visual_job_request import VisualJobRequest
from .visual_segmentation_fields import VisualSegmentationFields
from .visual_segmentation_form import VisualSegmentationForm
from .visual_segmentation_request import VisualSegmentationRequest
from .x_any_labeling_error import XAnyLabelingError
from .x_any_labeling_error_detail import XAnyLabelingErrorDetail
from .x_any_labeling_mark import XAnyLabelingMark
from .x_any_labeling_mark_label import XAnyLabelingMarkLabel
from .x_any_labeling_mark_type import XAnyLabelingMarkType
from .x_any_labeling_model import XAnyLabelingModel
from .x_any_labeling_model_capabilities import XAnyLabelingModelCapabilities
from .x_any_labeling_model_details import XAnyLabelingModelDetails
from .x_any_labeling_model_details_capabilities import (
    XAnyLabelingModelDetailsCapabilities,
)
from .x_any_labeling_model_details_params import XAnyLabelingModelDetailsParams
from .x_any_labeling_model_info import XAnyLabelingModelInfo
from .x_any_labeling_model_params import XAnyLabelingModelParams
from .x_any_labeling_models import XAnyLabelingModels
from .x_any_labeling_models_data import XAnyLabelingModelsData
from .x_any_labeling_params import XAnyLabelingParams
from .x_any_labeling_request import XAnyLabelingRequest
from .x_any_labeling_response import XAnyLabelingResponse
from .x_any_labeling_result import XAnyLabelingResult
from .x_any_labeling_shape import XAnyLabelingShape
from .x_any_labeling_widget import XAnyLabelingWidget

__all__ = (
    "AddModelRequest",
    "AutomaticRequest",
    "AutomaticRequestModelVersion",
    "AutomaticRequestOutputFormat",
    "AutomaticRequestTiles",
    "BoxCollection",
    "BoxFeature",
    "BoxLabelNumber",
    "BoxProperties",
    "CenterBox",
    "Checkpoint",
    "CheckpointFamily",
    "ClearModelRequest",
    "CocoRle",
    "ConceptFormat",
    "ConceptJobRequest",
    "CornerBox",
    "CrsName",
    "Detection",
    "DetectionList",
    "EmbeddingFields",
    "EmbeddingForm",
    "EmbeddingRequest",
    "EmbeddingResponse",
    "ErrorDetail",
    "ErrorMessage",
    "Health",
    "HealthStatus",
    "ImageForgotten",
    "InferenceRequestImage",
    "InferenceRequestImageType",
    "JobDeleted",
    "JobDeletedStatus",
    "JobFailed",
    "JobImage",
    "JobMetrics",
    "JobProgress",
    "JobResult",
    "JobResultStatus",
    "JobSource",
    "JobSourceType",
    "JobStatus",
    "JobStatusStatus",
    "JobSubmitted",
    "LabelRowItem",
    "LabelStudioContext",
    "LabelStudioError",
    "LabelStudioErrorRequest",
    "LabelStudioHealth",
    "LabelStudioItem",
    "LabelStudioModelVersion",
    "LabelStudioParams",
    "LabelStudioPrediction",
    "LabelStudioPredictRequest",
    "LabelStudioPredictResponse",
    "LabelStudioReceived",
    "LabelStudioRegion",
    "LabelStudioRegionValue",
    "LabelStudioSetupRequest",
    "LabelStudioSetupRequestExtraParams",
    "LabelStudioTask",
    "LabelStudioTaskData",
    "LabelStudioValue",
    "LabelStudioVersions",
    "MaskCollection",
    "MaskFeature",
    "MaskProperties",
    "ModelDescriptionEntity",
    "ModelsCleared",
    "ModelsDescriptions",
    "ModelsResponse",
    "ModelsResponseModels",
    "NamedCrs",
    "Point",
    "PolygonGeometry",
    "PredictRequest",
    "PredictRequestModelVersion",
    "PredictRequestOutputFormat",
    "PredictRequestTiles",
    "PromptType",
    "ResultFormat",
    "Sam2EmbeddingFields",
    "Sam2EmbeddingForm",
    "Sam2EmbeddingRequest",
    "Sam2Prompt",
    "Sam2PromptResult",
    "Sam2PromptSet",
    "Sam2SegmentationFields",
    "Sam2SegmentationForm",
    "Sam2SegmentationRequest",
    "Sam2SegmentationResponse",
    "Sam2Version",
    "Sam3ImageRequest",
    "Sam3Prompt",
    "Sam3PromptEcho",
    "Sam3PromptEchoType",
    "Sam3PromptResult",
    "Sam3PromptType",
    "Sam3SegmentationFields",
    "Sam3SegmentationForm",
    "Sam3SegmentationRequest",
    "Sam3SegmentationResponse",
    "SamV2ImageRequest",
    "SegmentationPrediction",
    "SegmentationPredictionFormat",
    "SegmindFailure",
    "SegmindImages",
    "ServerInfo",
    "ServerInfoLinks",
    "ServerVersionInfo",
    "SpaceError",
    "SpaceInputs",
    "SpaceLabel",
    "SpacePredictRequest",
    "SpacePredictResponse",
    "SpaceRequest",
    "SpaceResponse",
    "TextRequest",
    "TextRequestBackend",
    "TextRequestOutputFormat",
    "TextRequestTiles",
    "Tiles",
    "TopLeftBox",
    "ValidationErrorItem",
    "ValidationErrorResponse",
    "VisualFormat",
    "VisualJobRequest",
    "VisualSegmentationFields",
    "VisualSegmentationForm",
    "VisualSegmentationRequest",
    "XAnyLabelingError",
    "XAnyLabelingErrorDetail",
    "XAnyLabelingMark",
    "XAnyLabelingMarkLabel",
    "XAnyLabelingMarkType",
    "XAnyLabelingModel",
    "XAnyLabelingModelCapabilities",
    "XAnyLabelingModelDetails",
    "XAnyLabelingModelDetailsCapabilities",
    "XAnyLabelingModelDetailsParams",
    "XAnyLabelingModelInfo",
    "XAnyLabelingModelParams",
    "XAnyLabelingModels",
    "XAnyLabelingModelsData",
    "XAnyLabelingParams",
    "XAnyLabelingRequest",
    "XAnyLabelingResponse",
    "XAnyLabelingResult",
    "XAnyLabelingShape",
    "XAnyLabelingWidget",
)
