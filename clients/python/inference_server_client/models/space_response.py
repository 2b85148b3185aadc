from __future__ import annotations

from collections.abc import Mapping
from typing import (
    Any,
    Literal,
    TypeVar,
    cast,
)

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.prompt_type import PromptType, check_prompt_type
from ..types import UNSET, Unset

T = TypeVar("T", bound="SpaceResponse")


@_attrs_define
class SpaceResponse:
    """The segmented objects; the lists are empty if none was found.

    Attributes:
        masks (list[str]): One base64-encoded PNG per mask: single channel, image size, 255 on the object and 0
            elsewhere. Masks of text prompts come first, in request order, then masks of boxes, then masks of points.
        scores (list[float]): One score per mask: confidence for text, predicted IoU for points and boxes.
        num_objects (int): Number of masks.
        sam_version (str): Always `3.0`.
        prompt_types (list[PromptType]): Types of the prompts in the request.
        success (bool): Always true.
        polygons (list[list[list[float]]] | Unset): With `vectorize`, one polygon per mask: the outline of its largest
            part.
        polygon_format (Literal['pixel_coordinates'] | Unset): With `vectorize`: unit of `polygons`.
        original_image_size (list[int] | Unset): With `vectorize`: `[width, height]` of the image, in pixels.
    """

    masks: list[str]
    scores: list[float]
    num_objects: int
    sam_version: str
    prompt_types: list[PromptType]
    success: bool
    polygons: list[list[list[float]]] | Unset = UNSET
    polygon_format: Literal["pixel_coordinates"] | Unset = UNSET
    original_image_size: list[int] | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        masks = self.masks

        scores = self.scores

        num_objects = self.num_objects

        sam_version = self.sam_version

        prompt_types = []
        for prompt_types_item_data in self.prompt_types:
            prompt_types_item: str = prompt_types_item_data
            prompt_types.append(prompt_types_item)

        success = self.success

        polygons: list[list[list[float]]] | Unset = UNSET
        if not isinstance(self.polygons, Unset):
            polygons = []
            for polygons_item_data in self.polygons:
                polygons_item = []
                for componentsschemas_polygon_item_data in polygons_item_data:
                    componentsschemas_polygon_item = componentsschemas_polygon_item_data

                    polygons_item.append(componentsschemas_polygon_item)

                polygons.append(polygons_item)

        polygon_format = self.polygon_format

        original_image_size: list[int] | Unset = UNSET
        if not isinstance(self.original_image_size, Unset):
            original_image_size = self.original_image_size

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "masks": masks,
                "scores": scores,
                "num_objects": num_objects,
                "sam_version": sam_version,
                "prompt_types": prompt_types,
                "success": success,
            }
        )
        if polygons is not UNSET:
            field_dict["polygons"] = polygons
        if polygon_format is not UNSET:
            field_dict["polygon_format"] = polygon_format
        if original_image_size is not UNSET:
            field_dict["original_image_size"] = original_image_size

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        masks = cast(list[str], d.pop("masks"))

        scores = cast(list[float], d.pop("scores"))

        num_objects = d.pop("num_objects")

        sam_version = d.pop("sam_version")

        prompt_types = []
        _prompt_types = d.pop("prompt_types")
        for prompt_types_item_data in _prompt_types:
            prompt_types_item = check_prompt_type(prompt_types_item_data)

            prompt_types.append(prompt_types_item)

        success = d.pop("success")

        _polygons = d.pop("polygons", UNSET)
        polygons: list[list[list[float]]] | Unset = UNSET
        if _polygons is not UNSET:
            polygons = []
            for polygons_item_data in _polygons:
                polygons_item = []
                _polygons_item = polygons_item_data
                for componentsschemas_polygon_item_data in _polygons_item:
                    componentsschemas_polygon_item = cast(
                        list[float], componentsschemas_polygon_item_data
                    )

                    polygons_item.append(componentsschemas_polygon_item)

                polygons.append(polygons_item)

        polygon_format = cast(Literal["pixel_coordinates"] | Unset, d.pop("polygon_format", UNSET))
        if polygon_format != "pixel_coordinates" and not isinstance(polygon_format, Unset):
            raise ValueError(
                f"polygon_format must match const 'pixel_coordinates', got '{polygon_format}'"
            )

        original_image_size = cast(list[int], d.pop("original_image_size", UNSET))

        space_response = cls(
            masks=masks,
            scores=scores,
            num_objects=num_objects,
            sam_version=sam_version,
            prompt_types=prompt_types,
            success=success,
            polygons=polygons,
            polygon_format=polygon_format,
            original_image_size=original_image_size,
        )

        space_response.additional_properties = d
        return space_response

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
