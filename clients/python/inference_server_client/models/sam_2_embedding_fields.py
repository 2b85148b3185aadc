from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.sam_2_version import Sam2Version, check_sam_2_version
from ..types import UNSET, Unset

T = TypeVar("T", bound="Sam2EmbeddingFields")


@_attrs_define
class Sam2EmbeddingFields:
    """Fields of a request that encodes an image for SAM 2, without the image.

    Attributes:
        api_key (str | Unset): API key. It can also be sent in a header or the query string.
        image_id (str | Unset): Client-chosen id under which the server caches the image. Later requests with the same
            id can omit `image`.
        sam2_version_id (Sam2Version | Unset): Size of a SAM 2 model.
        replace (bool | Unset): Whether `image_id` names this image from now on, even if it names another one that is
            cached. Without it, the cached image stays. Needs `image` and `image_id`. Default: False.
    """

    api_key: str | Unset = UNSET
    image_id: str | Unset = UNSET
    sam2_version_id: Sam2Version | Unset = UNSET
    replace: bool | Unset = False
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        api_key = self.api_key

        image_id = self.image_id

        sam2_version_id: str | Unset = UNSET
        if not isinstance(self.sam2_version_id, Unset):
            sam2_version_id = self.sam2_version_id

        replace = self.replace

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if api_key is not UNSET:
            field_dict["api_key"] = api_key
        if image_id is not UNSET:
            field_dict["image_id"] = image_id
        if sam2_version_id is not UNSET:
            field_dict["sam2_version_id"] = sam2_version_id
        if replace is not UNSET:
            field_dict["replace"] = replace

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        api_key = d.pop("api_key", UNSET)

        image_id = d.pop("image_id", UNSET)

        _sam2_version_id = d.pop("sam2_version_id", UNSET)
        sam2_version_id: Sam2Version | Unset
        if isinstance(_sam2_version_id, Unset):
            sam2_version_id = UNSET
        else:
            sam2_version_id = check_sam_2_version(_sam2_version_id)

        replace = d.pop("replace", UNSET)

        sam_2_embedding_fields = cls(
            api_key=api_key,
            image_id=image_id,
            sam2_version_id=sam2_version_id,
            replace=replace,
        )

        sam_2_embedding_fields.additional_properties = d
        return sam_2_embedding_fields

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
