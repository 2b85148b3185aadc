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
    from ..models.crs_name import CrsName


T = TypeVar("T", bound="NamedCrs")


@_attrs_define
class NamedCrs:
    """A coordinate reference system (CRS), in the form of GeoJSON 2008.

    Attributes:
        type_ (Literal['name']): Always `name`.
        properties (CrsName): The name of a coordinate reference system.
    """

    type_: Literal["name"]
    properties: CrsName
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        type_ = self.type_

        properties = self.properties.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "type": type_,
                "properties": properties,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.crs_name import CrsName  # noqa: PLC0415

        d = dict(src_dict)
        type_ = cast(Literal["name"], d.pop("type"))
        if type_ != "name":
            raise ValueError(f"type must match const 'name', got '{type_}'")

        properties = CrsName.from_dict(d.pop("properties"))

        named_crs = cls(
            type_=type_,
            properties=properties,
        )

        named_crs.additional_properties = d
        return named_crs

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
