from __future__ import annotations

from collections.abc import Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeVar,
    cast,
)

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.box_feature import BoxFeature


T = TypeVar("T", bound="BoxCollection")


@_attrs_define
class BoxCollection:
    """Objects as georeferenced boxes: `output_format=detections`.

    Attributes:
        type_ (Literal['FeatureCollection']): GeoJSON type.
        num_detections (int): Number of objects.
        features (list[BoxFeature]): One entry per object.
        crs (str | Unset): CRS as `EPSG:N`, or the same of another authority; WKT if no code defines it; absent if the
            image has none.
    """

    type_: Literal["FeatureCollection"]
    num_detections: int
    features: list[BoxFeature]
    crs: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        type_ = self.type_

        num_detections = self.num_detections

        features = []
        for features_item_data in self.features:
            features_item = features_item_data.to_dict()
            features.append(features_item)

        crs = self.crs

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "type": type_,
                "num_detections": num_detections,
                "features": features,
            }
        )
        if crs is not UNSET:
            field_dict["crs"] = crs

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.box_feature import BoxFeature  # noqa: PLC0415

        d = dict(src_dict)
        type_ = cast(Literal["FeatureCollection"], d.pop("type"))
        if type_ != "FeatureCollection":
            raise ValueError(f"type must match const 'FeatureCollection', got '{type_}'")

        num_detections = d.pop("num_detections")

        features = []
        _features = d.pop("features")
        for features_item_data in _features:
            features_item = BoxFeature.from_dict(features_item_data)

            features.append(features_item)

        crs = d.pop("crs", UNSET)

        box_collection = cls(
            type_=type_,
            num_detections=num_detections,
            features=features,
            crs=crs,
        )

        box_collection.additional_properties = d
        return box_collection

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
