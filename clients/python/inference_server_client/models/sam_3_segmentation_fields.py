from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.concept_format import ConceptFormat, check_concept_format
from ..models.tiles import Tiles, check_tiles
from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.sam_3_prompt import Sam3Prompt


T = TypeVar("T", bound="Sam3SegmentationFields")


@_attrs_define
class Sam3SegmentationFields:
    """Fields of a request that finds all instances of each concept, without the image.

    Attributes:
        prompts (list[Sam3Prompt]): Concepts to find; at most 16 by default (`INFERENCE_MAX_PROMPTS`).
        api_key (str | Unset): API key. It can also be sent in a header or the query string.
        image_id (str | Unset): Client-chosen id under which the server caches the image. Later requests with the same
            id can omit `image`.
        simplify_epsilon (float | Unset): Simplify polygons: maximum distance in pixels between a vertex that is left
            out and the edge that replaces it (Douglas-Peucker). All parts stay, and polygons do not cross themselves or
            each other. 0 keeps every vertex. Only with polygons. Default: 0.0.
        include_boxes (bool | Unset): Whether predictions have `bbox` and `area`; a `binary` file then has the arrays
            `boxes` and `areas`. Default: False.
        tiles (Tiles | Unset): Whether the image is segmented by windows. `auto`: a TIFF file that is too large to be
            encoded as a whole, or larger than `tile_size`. `never`: such a file is refused (413).
        tile_size (int | Unset): Side of a window in pixels of the image. Default: that of the model's input, so that
            nothing is reduced.
        tile_overlap (int | Unset): Pixels that neighbouring windows share at least; less than half of `tile_size`.
            Default: an eighth of it.
        bands (str | Unset): Bands of a TIFF file to show as red, green and blue, such as `3,2,1`, or one to show as
            grey. Default: those that the file says.
        format_ (ConceptFormat | Unset): `polygon` (alias: `json`) or `rle`.
        output_prob_thresh (float | Unset): Minimum score of a prediction; 0 keeps all. Default: 0.5.
        model_id (str | Unset): SAM 3 model to use; the default is the base model. Default: 'sam3/sam3_final'.
        nms_iou_threshold (float | Unset): Non-maximum suppression across all prompts: of two masks with an IoU above
            this value, only the one with the higher score is kept. Without it, all masks are kept.
    """

    prompts: list[Sam3Prompt]
    api_key: str | Unset = UNSET
    image_id: str | Unset = UNSET
    simplify_epsilon: float | Unset = 0.0
    include_boxes: bool | Unset = False
    tiles: Tiles | Unset = UNSET
    tile_size: int | Unset = UNSET
    tile_overlap: int | Unset = UNSET
    bands: str | Unset = UNSET
    format_: ConceptFormat | Unset = UNSET
    output_prob_thresh: float | Unset = 0.5
    model_id: str | Unset = "sam3/sam3_final"
    nms_iou_threshold: float | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        prompts = []
        for prompts_item_data in self.prompts:
            prompts_item = prompts_item_data.to_dict()
            prompts.append(prompts_item)

        api_key = self.api_key

        image_id = self.image_id

        simplify_epsilon = self.simplify_epsilon

        include_boxes = self.include_boxes

        tiles: str | Unset = UNSET
        if not isinstance(self.tiles, Unset):
            tiles = self.tiles

        tile_size = self.tile_size

        tile_overlap = self.tile_overlap

        bands = self.bands

        format_: str | Unset = UNSET
        if not isinstance(self.format_, Unset):
            format_ = self.format_

        output_prob_thresh = self.output_prob_thresh

        model_id = self.model_id

        nms_iou_threshold = self.nms_iou_threshold

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "prompts": prompts,
            }
        )
        if api_key is not UNSET:
            field_dict["api_key"] = api_key
        if image_id is not UNSET:
            field_dict["image_id"] = image_id
        if simplify_epsilon is not UNSET:
            field_dict["simplify_epsilon"] = simplify_epsilon
        if include_boxes is not UNSET:
            field_dict["include_boxes"] = include_boxes
        if tiles is not UNSET:
            field_dict["tiles"] = tiles
        if tile_size is not UNSET:
            field_dict["tile_size"] = tile_size
        if tile_overlap is not UNSET:
            field_dict["tile_overlap"] = tile_overlap
        if bands is not UNSET:
            field_dict["bands"] = bands
        if format_ is not UNSET:
            field_dict["format"] = format_
        if output_prob_thresh is not UNSET:
            field_dict["output_prob_thresh"] = output_prob_thresh
        if model_id is not UNSET:
            field_dict["model_id"] = model_id
        if nms_iou_threshold is not UNSET:
            field_dict["nms_iou_threshold"] = nms_iou_threshold

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.sam_3_prompt import Sam3Prompt  # noqa: PLC0415

        d = dict(src_dict)
        prompts = []
        _prompts = d.pop("prompts")
        for prompts_item_data in _prompts:
            prompts_item = Sam3Prompt.from_dict(prompts_item_data)

            prompts.append(prompts_item)

        api_key = d.pop("api_key", UNSET)

        image_id = d.pop("image_id", UNSET)

        simplify_epsilon = d.pop("simplify_epsilon", UNSET)

        include_boxes = d.pop("include_boxes", UNSET)

        _tiles = d.pop("tiles", UNSET)
        tiles: Tiles | Unset
        if isinstance(_tiles, Unset):
            tiles = UNSET
        else:
            tiles = check_tiles(_tiles)

        tile_size = d.pop("tile_size", UNSET)

        tile_overlap = d.pop("tile_overlap", UNSET)

        bands = d.pop("bands", UNSET)

        _format_ = d.pop("format", UNSET)
        format_: ConceptFormat | Unset
        if isinstance(_format_, Unset):
            format_ = UNSET
        else:
            format_ = check_concept_format(_format_)

        output_prob_thresh = d.pop("output_prob_thresh", UNSET)

        model_id = d.pop("model_id", UNSET)

        nms_iou_threshold = d.pop("nms_iou_threshold", UNSET)

        sam_3_segmentation_fields = cls(
            prompts=prompts,
            api_key=api_key,
            image_id=image_id,
            simplify_epsilon=simplify_epsilon,
            include_boxes=include_boxes,
            tiles=tiles,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            bands=bands,
            format_=format_,
            output_prob_thresh=output_prob_thresh,
            model_id=model_id,
            nms_iou_threshold=nms_iou_threshold,
        )

        sam_3_segmentation_fields.additional_properties = d
        return sam_3_segmentation_fields

    @property
    def additional_keys(self) -> list[str]:
        return list(self.additional_properties.keys())

    def __getitem__(self, key: str) -> Any:
        return self.additional_properties[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.additional_properties[key] = value

    def __delitem__(self, key: str) -> None:
        del self.additional_properties[key]

    def __contains__(self, key: str) -> bool:
        return key in self.additional_properties
