from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="LabelStudioValue")


@_attrs_define
class LabelStudioValue:
    """Position and labels of a prompt, in percent of the image.

    Attributes:
        x (float | Unset): Left side, or abscissa of a point.
        y (float | Unset): Top side, or ordinate of a point.
        width (float | Unset): Width of a rectangle.
        height (float | Unset): Height of a rectangle.
        rotation (float | Unset): Degrees by which a rectangle is turned clockwise at its corner. Default: 0.0.
        positive (bool | Unset): False if the prompt marks what is not wanted.
        labels (list[str] | Unset): Labels of the prompt.
        keypointlabels (list[str] | Unset): Labels of a point.
        rectanglelabels (list[str] | Unset): Labels of a rectangle.
        text (list[str] | Unset): Words of a `TextArea`.
    """

    x: float | Unset = UNSET
    y: float | Unset = UNSET
    width: float | Unset = UNSET
    height: float | Unset = UNSET
    rotation: float | Unset = 0.0
    positive: bool | Unset = UNSET
    labels: list[str] | Unset = UNSET
    keypointlabels: list[str] | Unset = UNSET
    rectanglelabels: list[str] | Unset = UNSET
    text: list[str] | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        x = self.x

        y = self.y

        width = self.width

        height = self.height

        rotation = self.rotation

        positive = self.positive

        labels: list[str] | Unset = UNSET
        if not isinstance(self.labels, Unset):
            labels = self.labels

        keypointlabels: list[str] | Unset = UNSET
        if not isinstance(self.keypointlabels, Unset):
            keypointlabels = self.keypointlabels

        rectanglelabels: list[str] | Unset = UNSET
        if not isinstance(self.rectanglelabels, Unset):
            rectanglelabels = self.rectanglelabels

        text: list[str] | Unset = UNSET
        if not isinstance(self.text, Unset):
            text = self.text

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
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
        if positive is not UNSET:
            field_dict["positive"] = positive
        if labels is not UNSET:
            field_dict["labels"] = labels
        if keypointlabels is not UNSET:
            field_dict["keypointlabels"] = keypointlabels
        if rectanglelabels is not UNSET:
            field_dict["rectanglelabels"] = rectanglelabels
        if text is not UNSET:
            field_dict["text"] = text

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        x = d.pop("x", UNSET)

        y = d.pop("y", UNSET)

        width = d.pop("width", UNSET)

        height = d.pop("height", UNSET)

        rotation = d.pop("rotation", UNSET)

        positive = d.pop("positive", UNSET)

        labels = cast(list[str], d.pop("labels", UNSET))

        keypointlabels = cast(list[str], d.pop("keypointlabels", UNSET))

        rectanglelabels = cast(list[str], d.pop("rectanglelabels", UNSET))

        text = cast(list[str], d.pop("text", UNSET))

        label_studio_value = cls(
            x=x,
            y=y,
            width=width,
            height=height,
            rotation=rotation,
            positive=positive,
            labels=labels,
            keypointlabels=keypointlabels,
            rectanglelabels=rectanglelabels,
            text=text,
        )

        label_studio_value.additional_properties = d
        return label_studio_value

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
