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

if TYPE_CHECKING:
    from ..models.box_properties import BoxProperties
    from ..models.polygon_geometry import PolygonGeometry


T = TypeVar("T", bound="BoxFeature")


@_attrs_define
class BoxFeature:
    """The bounding box of an object, as GeoJSON.

    Attributes:
        type_ (Literal['Feature']): GeoJSON type.
        geometry (PolygonGeometry): A polygon: its outline, followed by its holes.
        properties (BoxProperties): Id, score and box of an object.
    """

    type_: Literal["Feature"]
    geometry: PolygonGeometry
    properties: BoxProperties
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        type_ = self.type_

        geometry = self.geometry.to_dict()

        properties = self.properties.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "type": type_,
                "geometry": geometry,
                "properties": properties,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.box_properties import BoxProperties  # noqa: PLC0415
        from ..models.polygon_geometry import PolygonGeometry  # noqa: PLC0415

        d = dict(src_dict)
        type_ = cast(Literal["Feature"], d.pop("type"))
        if type_ != "Feature":
            raise ValueError(f"type must match const 'Feature', got '{type_}'")

        geometry = PolygonGeometry.from_dict(d.pop("geometry"))

        properties = BoxProperties.from_dict(d.pop("properties"))

        box_feature = cls(
            type_=type_,
            geometry=geometry,
            properties=properties,
        )

        box_feature.additional_properties = d
        return box_feature

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
