from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="SegmindImages")


@_attrs_define
class SegmindImages:
    """Several images, each a base64-encoded PNG. Images that were not requested are absent.

    Attributes:
        preview (str | Unset): All masks, white on black.
        overlay (str | Unset): The input image with the masks drawn over it.
        masks (list[str] | Unset): Each mask, highest score first; empty if none was found.
    """

    preview: str | Unset = UNSET
    overlay: str | Unset = UNSET
    masks: list[str] | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        preview = self.preview

        overlay = self.overlay

        masks: list[str] | Unset = UNSET
        if not isinstance(self.masks, Unset):
            masks = self.masks

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if preview is not UNSET:
            field_dict["preview"] = preview
        if overlay is not UNSET:
            field_dict["overlay"] = overlay
        if masks is not UNSET:
            field_dict["masks"] = masks

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        preview = d.pop("preview", UNSET)

        overlay = d.pop("overlay", UNSET)

        masks = cast(list[str], d.pop("masks", UNSET))

        segmind_images = cls(
            preview=preview,
            overlay=overlay,
            masks=masks,
        )

        segmind_images.additional_properties = d
        return segmind_images

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
