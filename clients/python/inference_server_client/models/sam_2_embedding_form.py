from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from .. import types
from ..types import UNSET, File, Unset

if TYPE_CHECKING:
    from ..models.sam_2_embedding_fields import Sam2EmbeddingFields


T = TypeVar("T", bound="Sam2EmbeddingForm")


@_attrs_define
class Sam2EmbeddingForm:
    """Encode an image for SAM 2; `request` has the fields of `Sam2EmbeddingRequest` but `image`.

    Attributes:
        image (File): The image file, as it is: no base64.
        request (Sam2EmbeddingFields): Fields of a request that encodes an image for SAM 2, without the image.
        api_key (str | Unset): API key, if not sent in a header or the query. This part must precede the image.
    """

    image: File
    request: Sam2EmbeddingFields
    api_key: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        image = self.image.to_tuple()

        request = self.request.to_dict()

        api_key = self.api_key

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "image": image,
                "request": request,
            }
        )
        if api_key is not UNSET:
            field_dict["api_key"] = api_key

        return field_dict

    def to_multipart(self) -> types.RequestFiles:
        files: types.RequestFiles = []

        files.append(("image", self.image.to_tuple()))

        files.append(
            ("request", (None, json.dumps(self.request.to_dict()).encode(), "application/json"))
        )

        if not isinstance(self.api_key, Unset):
            files.append(("api_key", (None, str(self.api_key).encode(), "text/plain")))

        for prop_name, prop in self.additional_properties.items():
            files.append((prop_name, (None, str(prop).encode(), "text/plain")))

        return files

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.sam_2_embedding_fields import Sam2EmbeddingFields  # noqa: PLC0415

        d = dict(src_dict)
        image = File(payload=BytesIO(d.pop("image")))

        request = Sam2EmbeddingFields.from_dict(d.pop("request"))

        api_key = d.pop("api_key", UNSET)

        sam_2_embedding_form = cls(
            image=image,
            request=request,
            api_key=api_key,
        )

        sam_2_embedding_form.additional_properties = d
        return sam_2_embedding_form

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
