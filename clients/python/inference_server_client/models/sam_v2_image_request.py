from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="SamV2ImageRequest")


@_attrs_define
class SamV2ImageRequest:
    """Segment by text, or segment one object by points.

    Attributes:
        image (str): The image: an http or https URL, or the base64-encoded file, with or without a
            `data:image/…;base64,` prefix.
        api_key (str | Unset): API key. It can also be sent in the header `x-api-key`.
        prompt (str | Unset): What to find: a short noun phrase. Optional if `coordinates` are sent.
        coordinates (list[float] | list[list[float]] | str | Unset): Points in pixels: `[[x, y], …]`, or a single `[x,
            y]`.
        remove_coordinates (list[float] | list[list[float]] | str | Unset): Points in pixels: `[[x, y], …]`, or a single
            `[x, y]`.
        overlay_mask (bool | Unset): Return the input image with the mask drawn over it; otherwise the mask, white on
            black. Default: True.
        base64 (bool | Unset): Return the image as a base64 JSON string instead of a file. Default: False.
    """

    image: str
    api_key: str | Unset = UNSET
    prompt: str | Unset = UNSET
    coordinates: list[float] | list[list[float]] | str | Unset = UNSET
    remove_coordinates: list[float] | list[list[float]] | str | Unset = UNSET
    overlay_mask: bool | Unset = True
    base64: bool | Unset = False
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        image = self.image

        api_key = self.api_key

        prompt = self.prompt

        coordinates: list[float] | list[list[float]] | str | Unset
        if isinstance(self.coordinates, Unset):
            coordinates = UNSET
        elif isinstance(self.coordinates, list):
            coordinates = self.coordinates

        elif isinstance(self.coordinates, list):
            coordinates = []
            for componentsschemas_number_rows_item_data in self.coordinates:
                componentsschemas_number_rows_item = componentsschemas_number_rows_item_data

                coordinates.append(componentsschemas_number_rows_item)

        else:
            coordinates = self.coordinates

        remove_coordinates: list[float] | list[list[float]] | str | Unset
        if isinstance(self.remove_coordinates, Unset):
            remove_coordinates = UNSET
        elif isinstance(self.remove_coordinates, list):
            remove_coordinates = self.remove_coordinates

        elif isinstance(self.remove_coordinates, list):
            remove_coordinates = []
            for componentsschemas_number_rows_item_data in self.remove_coordinates:
                componentsschemas_number_rows_item = componentsschemas_number_rows_item_data

                remove_coordinates.append(componentsschemas_number_rows_item)

        else:
            remove_coordinates = self.remove_coordinates

        overlay_mask = self.overlay_mask

        base64 = self.base64

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "image": image,
            }
        )
        if api_key is not UNSET:
            field_dict["api_key"] = api_key
        if prompt is not UNSET:
            field_dict["prompt"] = prompt
        if coordinates is not UNSET:
            field_dict["coordinates"] = coordinates
        if remove_coordinates is not UNSET:
            field_dict["remove_coordinates"] = remove_coordinates
        if overlay_mask is not UNSET:
            field_dict["overlay_mask"] = overlay_mask
        if base64 is not UNSET:
            field_dict["base64"] = base64

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        image = d.pop("image")

        api_key = d.pop("api_key", UNSET)

        prompt = d.pop("prompt", UNSET)

        def _parse_coordinates(data: object) -> list[float] | list[list[float]] | str | Unset:
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, list):
                    raise TypeError()
                componentsschemas_point_list_type_1 = cast(list[float], data)

                return componentsschemas_point_list_type_1
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            try:
                if not isinstance(data, list):
                    raise TypeError()
                componentsschemas_point_list_type_2 = []
                _componentsschemas_point_list_type_2 = data
                for componentsschemas_number_rows_item_data in _componentsschemas_point_list_type_2:
                    componentsschemas_number_rows_item = cast(
                        list[float], componentsschemas_number_rows_item_data
                    )

                    componentsschemas_point_list_type_2.append(componentsschemas_number_rows_item)

                return componentsschemas_point_list_type_2
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(list[float] | list[list[float]] | str | Unset, data)

        coordinates = _parse_coordinates(d.pop("coordinates", UNSET))

        def _parse_remove_coordinates(
            data: object,
        ) -> list[float] | list[list[float]] | str | Unset:
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, list):
                    raise TypeError()
                componentsschemas_point_list_type_1 = cast(list[float], data)

                return componentsschemas_point_list_type_1
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            try:
                if not isinstance(data, list):
                    raise TypeError()
                componentsschemas_point_list_type_2 = []
                _componentsschemas_point_list_type_2 = data
                for componentsschemas_number_rows_item_data in _componentsschemas_point_list_type_2:
                    componentsschemas_number_rows_item = cast(
                        list[float], componentsschemas_number_rows_item_data
                    )

                    componentsschemas_point_list_type_2.append(componentsschemas_number_rows_item)

                return componentsschemas_point_list_type_2
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(list[float] | list[list[float]] | str | Unset, data)

        remove_coordinates = _parse_remove_coordinates(d.pop("remove_coordinates", UNSET))

        overlay_mask = d.pop("overlay_mask", UNSET)

        base64 = d.pop("base64", UNSET)

        sam_v2_image_request = cls(
            image=image,
            api_key=api_key,
            prompt=prompt,
            coordinates=coordinates,
            remove_coordinates=remove_coordinates,
            overlay_mask=overlay_mask,
            base64=base64,
        )

        sam_v2_image_request.additional_properties = d
        return sam_v2_image_request

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
