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
    from ..models.mask_feature import MaskFeature
    from ..models.named_crs import NamedCrs


T = TypeVar("T", bound="MaskCollection")


@_attrs_define
class MaskCollection:
    """Objects as polygons: `output_format=geojson`.

    Attributes:
        type_ (Literal['FeatureCollection']): GeoJSON type.
        name (str): Always `output`.
        features (list[MaskFeature]): Connected parts of objects, from top to bottom of the image.
        crs (NamedCrs | Unset): A coordinate reference system (CRS), in the form of GeoJSON 2008.
    """

    type_: Literal["FeatureCollection"]
    name: str
    features: list[MaskFeature]
    crs: NamedCrs | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        type_ = self.type_

        name = self.name

        features = []
        for features_item_data in self.features:
            features_item = features_item_data.to_dict()
            features.append(features_item)

        crs: dict[str, Any] | Unset = UNSET
        if not isinstance(self.crs, Unset):
            crs = self.crs.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "type": type_,
                "name": name,
                "features": features,
            }
        )
        if crs is not UNSET:
            field_dict["crs"] = crs

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.mask_feature import MaskFeature  # noqa: PLC0415
        from ..models.named_crs import NamedCrs  # noqa: PLC0415

        d = dict(src_dict)
        type_ = cast(Literal["FeatureCollection"], d.pop("type"))
        if type_ != "FeatureCollection":
            raise ValueError(f"type must match const 'FeatureCollection', got '{type_}'")

        name = d.pop("name")

        features = []
        _features = d.pop("features")
        for features_item_data in _features:
            features_item = MaskFeature.from_dict(features_item_data)

            features.append(features_item)

        _crs = d.pop("crs", UNSET)
        crs: NamedCrs | Unset
        if isinstance(_crs, Unset):
            crs = UNSET
        else:
            crs = NamedCrs.from_dict(_crs)

        mask_collection = cls(
            type_=type_,
            name=name,
            features=features,
            crs=crs,
        )

        mask_collection.additional_properties = d
        return mask_collection

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
