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

from ..types import UNSET, Unset

T = TypeVar("T", bound="LabelStudioRegionValue")


@_attrs_define
class LabelStudioRegionValue:
    """The shape of a region; lengths are percent of the image. Its type decides the fields.

    Attributes:
        format_ (Literal['rle'] | Unset): `brushlabels`: the format.
        rle (list[int] | Unset): `brushlabels`: the mask as Label Studio's run lengths.
        points (list[list[float]] | Unset): `polygonlabels`: the vertices, `[x, y]`.
        closed (bool | Unset): `polygonlabels`: always true.
        x (float | Unset): `rectanglelabels`: left side.
        y (float | Unset): `rectanglelabels`: top side.
        width (float | Unset): `rectanglelabels`: width.
        height (float | Unset): `rectanglelabels`: height.
        rotation (float | Unset): `rectanglelabels`: always 0.
        image_data_url (str | Unset): `bitmasklabels`: the mask as the data URL of a PNG.
        brushlabels (list[str] | Unset): The labels of a brush.
        bitmasklabels (list[str] | Unset): The labels of a bitmask.
        polygonlabels (list[str] | Unset): The labels of a polygon.
        rectanglelabels (list[str] | Unset): The labels of a rectangle.
    """

    format_: Literal["rle"] | Unset = UNSET
    rle: list[int] | Unset = UNSET
    points: list[list[float]] | Unset = UNSET
    closed: bool | Unset = UNSET
    x: float | Unset = UNSET
    y: float | Unset = UNSET
    width: float | Unset = UNSET
    height: float | Unset = UNSET
    rotation: float | Unset = UNSET
    image_data_url: str | Unset = UNSET
    brushlabels: list[str] | Unset = UNSET
    bitmasklabels: list[str] | Unset = UNSET
    polygonlabels: list[str] | Unset = UNSET
    rectanglelabels: list[str] | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        format_ = self.format_

        rle: list[int] | Unset = UNSET
        if not isinstance(self.rle, Unset):
            rle = self.rle

        points: list[list[float]] | Unset = UNSET
        if not isinstance(self.points, Unset):
            points = []
            for points_item_data in self.points:
                points_item = points_item_data

                points.append(points_item)

        closed = self.closed

        x = self.x

        y = self.y

        width = self.width

        height = self.height

        rotation = self.rotation

        image_data_url = self.image_data_url

        brushlabels: list[str] | Unset = UNSET
        if not isinstance(self.brushlabels, Unset):
            brushlabels = self.brushlabels

        bitmasklabels: list[str] | Unset = UNSET
        if not isinstance(self.bitmasklabels, Unset):
            bitmasklabels = self.bitmasklabels

        polygonlabels: list[str] | Unset = UNSET
        if not isinstance(self.polygonlabels, Unset):
            polygonlabels = self.polygonlabels

        rectanglelabels: list[str] | Unset = UNSET
        if not isinstance(self.rectanglelabels, Unset):
            rectanglelabels = self.rectanglelabels

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if format_ is not UNSET:
            field_dict["format"] = format_
        if rle is not UNSET:
            field_dict["rle"] = rle
        if points is not UNSET:
            field_dict["points"] = points
        if closed is not UNSET:
            field_dict["closed"] = closed
        if x is not UNSET:
            field_dict["x"] = x
        if y is not UNSET:
            field_dict["y"] = y
        if width is not UNSET:
            field_dict["width"] = width
        if height is not UNSET:
            field_dict["height"] = height
        if rotation is not UNSET:
            field_dict["rotation"] = rotation
        if image_data_url is not UNSET:
            field_dict["imageDataURL"] = image_data_url
        if brushlabels is not UNSET:
            field_dict["brushlabels"] = brushlabels
        if bitmasklabels is not UNSET:
            field_dict["bitmasklabels"] = bitmasklabels
        if polygonlabels is not UNSET:
            field_dict["polygonlabels"] = polygonlabels
        if rectanglelabels is not UNSET:
            field_dict["rectanglelabels"] = rectanglelabels

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        format_ = cast(Literal["rle"] | Unset, d.pop("format", UNSET))
        if format_ != "rle" and not isinstance(format_, Unset):
            raise ValueError(f"format must match const 'rle', got '{format_}'")

        rle = cast(list[int], d.pop("rle", UNSET))

        _points = d.pop("points", UNSET)
        points: list[list[float]] | Unset = UNSET
        if _points is not UNSET:
            points = []
            for points_item_data in _points:
                points_item = cast(list[float], points_item_data)

                points.append(points_item)

        closed = d.pop("closed", UNSET)

        x = d.pop("x", UNSET)

        y = d.pop("y", UNSET)

        width = d.pop("width", UNSET)

        height = d.pop("height", UNSET)

        rotation = d.pop("rotation", UNSET)

        image_data_url = d.pop("imageDataURL", UNSET)

        brushlabels = cast(list[str], d.pop("brushlabels", UNSET))

        bitmasklabels = cast(list[str], d.pop("bitmasklabels", UNSET))

        polygonlabels = cast(list[str], d.pop("polygonlabels", UNSET))

        rectanglelabels = cast(list[str], d.pop("rectanglelabels", UNSET))

        label_studio_region_value = cls(
            format_=format_,
            rle=rle,
            points=points,
            closed=closed,
            x=x,
            y=y,
            width=width,
            height=height,
            rotation=rotation,
            image_data_url=image_data_url,
            brushlabels=brushlabels,
            bitmasklabels=bitmasklabels,
            polygonlabels=polygonlabels,
            rectanglelabels=rectanglelabels,
        )

        label_studio_region_value.additional_properties = d
        return label_studio_region_value

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
