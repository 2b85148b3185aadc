from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.segmentation_prediction_format import (
    SegmentationPredictionFormat,
    check_segmentation_prediction_format,
)
from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.coco_rle import CocoRle


T = TypeVar("T", bound="SegmentationPrediction")


@_attrs_define
class SegmentationPrediction:
    """One mask with its score.

    Attributes:
        format_ (SegmentationPredictionFormat): Format of `masks`.
        confidence (float): Score from 0 to 1.
        masks (CocoRle | list[list[list[float]]]): A mask, as polygons or RLE.
        bbox (list[int] | Unset): Box of the mask in pixels: left edge, top edge, width, height, as in COCO. Only with
            `include_boxes`; zeros for an empty mask.
        area (int | Unset): Number of pixels of the mask, before polygons are simplified. Only with `include_boxes`.
    """

    format_: SegmentationPredictionFormat
    confidence: float
    masks: CocoRle | list[list[list[float]]]
    bbox: list[int] | Unset = UNSET
    area: int | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        format_: str = self.format_

        confidence = self.confidence

        masks: dict[str, Any] | list[list[list[float]]]
        if isinstance(self.masks, list):
            masks = []
            for componentsschemas_polygons_item_data in self.masks:
                componentsschemas_polygons_item = []
                for componentsschemas_polygon_item_data in componentsschemas_polygons_item_data:
                    componentsschemas_polygon_item = componentsschemas_polygon_item_data

                    componentsschemas_polygons_item.append(componentsschemas_polygon_item)

                masks.append(componentsschemas_polygons_item)

        else:
            masks = self.masks.to_dict()

        bbox: list[int] | Unset = UNSET
        if not isinstance(self.bbox, Unset):
            bbox = self.bbox

        area = self.area

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "format": format_,
                "confidence": confidence,
                "masks": masks,
            }
        )
        if bbox is not UNSET:
            field_dict["bbox"] = bbox
        if area is not UNSET:
            field_dict["area"] = area

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.coco_rle import CocoRle  # noqa: PLC0415

        d = dict(src_dict)
        format_ = check_segmentation_prediction_format(d.pop("format"))

        confidence = d.pop("confidence")

        def _parse_masks(data: object) -> CocoRle | list[list[list[float]]]:
            try:
                if not isinstance(data, list):
                    raise TypeError()
                componentsschemas_masks_type_0 = []
                _componentsschemas_masks_type_0 = data
                for componentsschemas_polygons_item_data in _componentsschemas_masks_type_0:
                    componentsschemas_polygons_item = []
                    _componentsschemas_polygons_item = componentsschemas_polygons_item_data
                    for componentsschemas_polygon_item_data in _componentsschemas_polygons_item:
                        componentsschemas_polygon_item = cast(
                            list[float], componentsschemas_polygon_item_data
                        )

                        componentsschemas_polygons_item.append(componentsschemas_polygon_item)

                    componentsschemas_masks_type_0.append(componentsschemas_polygons_item)

                return componentsschemas_masks_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            if not isinstance(data, dict):
                raise TypeError()
            componentsschemas_masks_type_1 = CocoRle.from_dict(data)

            return componentsschemas_masks_type_1

        masks = _parse_masks(d.pop("masks"))

        bbox = cast(list[int], d.pop("bbox", UNSET))

        area = d.pop("area", UNSET)

        segmentation_prediction = cls(
            format_=format_,
            confidence=confidence,
            masks=masks,
            bbox=bbox,
            area=area,
        )

        segmentation_prediction.additional_properties = d
        return segmentation_prediction

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
