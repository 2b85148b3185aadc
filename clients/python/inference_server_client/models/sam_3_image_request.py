from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.label_row_item import LabelRowItem, check_label_row_item
from ..types import UNSET, Unset

T = TypeVar("T", bound="Sam3ImageRequest")


@_attrs_define
class Sam3ImageRequest:
    """Segment by text, exemplar boxes or points; without a prompt, segment everything.

    Text and boxes find all instances of a concept; points select one object. With both, the
    response contains the masks of both, without duplicates.

        Attributes:
            image (str): The image: an http or https URL, or the base64-encoded file, with or without a
                `data:image/…;base64,` prefix.
            api_key (str | Unset): API key. It can also be sent in the header `x-api-key`.
            text_prompt (str | Unset): What to find: a short noun phrase, such as `animal` or `plant`.
            boxes_input (list[float] | list[list[float]] | str | Unset): Boxes in pixels: `[[x0, y0, x1, y1], …]`, or a
                single `[x0, y0, x1, y1]`.
            points_input (list[float] | list[list[float]] | str | Unset): Points in pixels: `[[x, y], …]`, or a single `[x,
                y]`.
            point_labels_input (list[LabelRowItem] | list[list[LabelRowItem]] | str | Unset): Point labels: `[[1, 0]]`,
                `[[1], [0]]` or `[1, 0]`.
            return_preview (bool | Unset): Return all masks in one image, white on black. Default: True.
            return_overlay (bool | Unset): Return the input image with the masks drawn over it. Default: False.
            return_masks (bool | Unset): Return each mask as a separate image, highest score first. Default: False.
            threshold (float | Unset): Minimum score of a mask: confidence for text and boxes, predicted IoU for points and
                without a prompt. Default: 0.5.
            points_per_side (int | Unset): Without a prompt: points per side of the grid that covers the image; at least 1.
                Default: 32.
            pred_iou_thresh (float | Unset): Without a prompt: minimum predicted IoU of a mask. Default: 0.88.
            max_masks (int | Unset): Maximum number of masks, highest scores first; 0 for no limit. Default: 0.
    """

    image: str
    api_key: str | Unset = UNSET
    text_prompt: str | Unset = UNSET
    boxes_input: list[float] | list[list[float]] | str | Unset = UNSET
    points_input: list[float] | list[list[float]] | str | Unset = UNSET
    point_labels_input: list[LabelRowItem] | list[list[LabelRowItem]] | str | Unset = UNSET
    return_preview: bool | Unset = True
    return_overlay: bool | Unset = False
    return_masks: bool | Unset = False
    threshold: float | Unset = 0.5
    points_per_side: int | Unset = 32
    pred_iou_thresh: float | Unset = 0.88
    max_masks: int | Unset = 0
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        image = self.image

        api_key = self.api_key

        text_prompt = self.text_prompt

        boxes_input: list[float] | list[list[float]] | str | Unset
        if isinstance(self.boxes_input, Unset):
            boxes_input = UNSET
        elif isinstance(self.boxes_input, list):
            boxes_input = self.boxes_input

        elif isinstance(self.boxes_input, list):
            boxes_input = []
            for componentsschemas_number_rows_item_data in self.boxes_input:
                componentsschemas_number_rows_item = componentsschemas_number_rows_item_data

                boxes_input.append(componentsschemas_number_rows_item)

        else:
            boxes_input = self.boxes_input

        points_input: list[float] | list[list[float]] | str | Unset
        if isinstance(self.points_input, Unset):
            points_input = UNSET
        elif isinstance(self.points_input, list):
            points_input = self.points_input

        elif isinstance(self.points_input, list):
            points_input = []
            for componentsschemas_number_rows_item_data in self.points_input:
                componentsschemas_number_rows_item = componentsschemas_number_rows_item_data

                points_input.append(componentsschemas_number_rows_item)

        else:
            points_input = self.points_input

        point_labels_input: list[int] | list[list[int]] | str | Unset
        if isinstance(self.point_labels_input, Unset):
            point_labels_input = UNSET
        elif isinstance(self.point_labels_input, list):
            point_labels_input = []
            for componentsschemas_label_row_item_data in self.point_labels_input:
                componentsschemas_label_row_item: int = componentsschemas_label_row_item_data
                point_labels_input.append(componentsschemas_label_row_item)

        elif isinstance(self.point_labels_input, list):
            point_labels_input = []
            for componentsschemas_label_rows_item_data in self.point_labels_input:
                componentsschemas_label_rows_item = []
                for componentsschemas_label_row_item_data in componentsschemas_label_rows_item_data:
                    componentsschemas_label_row_item: int = componentsschemas_label_row_item_data
                    componentsschemas_label_rows_item.append(componentsschemas_label_row_item)

                point_labels_input.append(componentsschemas_label_rows_item)

        else:
            point_labels_input = self.point_labels_input

        return_preview = self.return_preview

        return_overlay = self.return_overlay

        return_masks = self.return_masks

        threshold = self.threshold

        points_per_side = self.points_per_side

        pred_iou_thresh = self.pred_iou_thresh

        max_masks = self.max_masks

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "image": image,
            }
        )
        if api_key is not UNSET:
            field_dict["api_key"] = api_key
        if text_prompt is not UNSET:
            field_dict["text_prompt"] = text_prompt
        if boxes_input is not UNSET:
            field_dict["boxes_input"] = boxes_input
        if points_input is not UNSET:
            field_dict["points_input"] = points_input
        if point_labels_input is not UNSET:
            field_dict["point_labels_input"] = point_labels_input
        if return_preview is not UNSET:
            field_dict["return_preview"] = return_preview
        if return_overlay is not UNSET:
            field_dict["return_overlay"] = return_overlay
        if return_masks is not UNSET:
            field_dict["return_masks"] = return_masks
        if threshold is not UNSET:
            field_dict["threshold"] = threshold
        if points_per_side is not UNSET:
            field_dict["points_per_side"] = points_per_side
        if pred_iou_thresh is not UNSET:
            field_dict["pred_iou_thresh"] = pred_iou_thresh
        if max_masks is not UNSET:
            field_dict["max_masks"] = max_masks

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        image = d.pop("image")

        api_key = d.pop("api_key", UNSET)

        text_prompt = d.pop("text_prompt", UNSET)

        def _parse_boxes_input(data: object) -> list[float] | list[list[float]] | str | Unset:
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, list):
                    raise TypeError()
                componentsschemas_box_list_type_1 = cast(list[float], data)

                return componentsschemas_box_list_type_1
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            try:
                if not isinstance(data, list):
                    raise TypeError()
                componentsschemas_box_list_type_2 = []
                _componentsschemas_box_list_type_2 = data
                for componentsschemas_number_rows_item_data in _componentsschemas_box_list_type_2:
                    componentsschemas_number_rows_item = cast(
                        list[float], componentsschemas_number_rows_item_data
                    )

                    componentsschemas_box_list_type_2.append(componentsschemas_number_rows_item)

                return componentsschemas_box_list_type_2
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(list[float] | list[list[float]] | str | Unset, data)

        boxes_input = _parse_boxes_input(d.pop("boxes_input", UNSET))

        def _parse_points_input(data: object) -> list[float] | list[list[float]] | str | Unset:
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

        points_input = _parse_points_input(d.pop("points_input", UNSET))

        def _parse_point_labels_input(
            data: object,
        ) -> list[LabelRowItem] | list[list[LabelRowItem]] | str | Unset:
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, list):
                    raise TypeError()
                componentsschemas_point_label_list_type_1 = []
                _componentsschemas_point_label_list_type_1 = data
                for (
                    componentsschemas_label_row_item_data
                ) in _componentsschemas_point_label_list_type_1:
                    componentsschemas_label_row_item = check_label_row_item(
                        componentsschemas_label_row_item_data
                    )

                    componentsschemas_point_label_list_type_1.append(
                        componentsschemas_label_row_item
                    )

                return componentsschemas_point_label_list_type_1
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            try:
                if not isinstance(data, list):
                    raise TypeError()
                componentsschemas_point_label_list_type_2 = []
                _componentsschemas_point_label_list_type_2 = data
                for (
                    componentsschemas_label_rows_item_data
                ) in _componentsschemas_point_label_list_type_2:
                    componentsschemas_label_rows_item = []
                    _componentsschemas_label_rows_item = componentsschemas_label_rows_item_data
                    for componentsschemas_label_row_item_data in _componentsschemas_label_rows_item:
                        componentsschemas_label_row_item = check_label_row_item(
                            componentsschemas_label_row_item_data
                        )

                        componentsschemas_label_rows_item.append(componentsschemas_label_row_item)

                    componentsschemas_point_label_list_type_2.append(
                        componentsschemas_label_rows_item
                    )

                return componentsschemas_point_label_list_type_2
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(list[LabelRowItem] | list[list[LabelRowItem]] | str | Unset, data)

        point_labels_input = _parse_point_labels_input(d.pop("point_labels_input", UNSET))

        return_preview = d.pop("return_preview", UNSET)

        return_overlay = d.pop("return_overlay", UNSET)

        return_masks = d.pop("return_masks", UNSET)

        threshold = d.pop("threshold", UNSET)

        points_per_side = d.pop("points_per_side", UNSET)

        pred_iou_thresh = d.pop("pred_iou_thresh", UNSET)

        max_masks = d.pop("max_masks", UNSET)

        sam_3_image_request = cls(
            image=image,
            api_key=api_key,
            text_prompt=text_prompt,
            boxes_input=boxes_input,
            points_input=points_input,
            point_labels_input=point_labels_input,
            return_preview=return_preview,
            return_overlay=return_overlay,
            return_masks=return_masks,
            threshold=threshold,
            points_per_side=points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            max_masks=max_masks,
        )

        sam_3_image_request.additional_properties = d
        return sam_3_image_request

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
