"""Roboflow API: concept requests and prompts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.geometry import CornerBox, TopLeftBox
from schemas.roboflow import Sam3Prompt, Sam3SegmentationRequest
from tests.schemas.checks import mistakes

IMAGE = {"type": "base64", "value": "aGVsbG8="}
DOG = {"type": "text", "text": "dog"}
XYWH = {"x": 10, "y": 20, "width": 30, "height": 40}
XYXY = {"x0": 10, "y0": 20, "x1": 40, "y1": 60}


def concept(**fields: Any) -> Sam3SegmentationRequest:
    return Sam3SegmentationRequest.model_validate({"image": IMAGE, "prompts": [DOG], **fields})


class TestConceptRequest:
    def test_defaults(self) -> None:
        request = concept()
        assert request.format == "polygon"
        assert request.output_prob_thresh == 0.5
        assert request.model_id == "sam3/sam3_final"
        assert request.nms_iou_threshold is None
        assert (request.api_key, request.image_id) == (None, None)

    def test_explicit_nulls_mean_absent(self) -> None:
        nulls = dict.fromkeys(
            ["format", "output_prob_thresh", "model_id", "nms_iou_threshold", "api_key", "image_id"]
        )
        assert concept(**nulls) == concept()

    def test_unknown_fields_are_ignored(self) -> None:
        assert concept(source="sdk", id="1", usage_billable=True) == concept()

    @pytest.mark.parametrize(
        ("sent", "meant"), [("polygon", "polygon"), ("json", "polygon"), ("rle", "rle")]
    )
    def test_format_and_its_alias(self, sent: str, meant: str) -> None:
        assert concept(format=sent).mask_format == meant

    @pytest.mark.parametrize("sent", ["binary", "png", "", 1, [], {}])
    def test_unknown_format_lists_the_known_ones(self, sent: Any) -> None:
        with pytest.raises(ValidationError, match="'polygon', 'json' or 'rle'"):
            concept(format=sent)

    @pytest.mark.parametrize("name", ["output_prob_thresh", "nms_iou_threshold"])
    @pytest.mark.parametrize("value", [0, 1, 0.25, "0.25"])
    def test_thresholds_from_0_to_1(self, name: str, value: Any) -> None:
        assert getattr(concept(**{name: value}), name) == float(value)

    @pytest.mark.parametrize("name", ["output_prob_thresh", "nms_iou_threshold"])
    @pytest.mark.parametrize(
        "value", [-0.01, 1.01, math.nan, math.inf, -math.inf, "nan", 1e999, True, False, "a", [0]]
    )
    def test_invalid_thresholds(self, name: str, value: Any) -> None:
        data = {"image": IMAGE, "prompts": [DOG], name: value}
        assert [where for where, _ in mistakes(Sam3SegmentationRequest, data)] == [name]

    def test_threshold_0_is_not_the_default(self) -> None:
        assert concept(output_prob_thresh=0).thresholds == [0.0]

    def test_a_prompt_overrides_the_threshold(self) -> None:
        prompts = [DOG, {**DOG, "output_prob_thresh": 0}, {**DOG, "output_prob_thresh": None}]
        assert concept(prompts=prompts, output_prob_thresh=0.7).thresholds == [0.7, 0.0, 0.7]

    @pytest.mark.parametrize(
        ("prompts", "mistake"),
        [
            ([], ("prompts", "too_short")),
            (None, ("prompts", "missing")),
            (DOG, ("prompts", "list_type")),
            ("dog", ("prompts", "list_type")),
            (["dog"], ("prompts.0", "model_type")),
            ([None], ("prompts.0", "model_type")),
        ],
    )
    def test_prompts_is_a_non_empty_list(self, prompts: Any, mistake: tuple[str, str]) -> None:
        data = {"image": IMAGE, "prompts": prompts}
        assert mistakes(Sam3SegmentationRequest, data) == [mistake]


class TestConceptPrompt:
    @pytest.mark.parametrize(
        ("prompt", "kind"),
        [
            ({"text": "dog"}, "text"),
            ({"type": "text", "text": "dog"}, "text"),
            ({"type": None, "text": "dog", "boxes": [XYWH]}, "text"),
            ({"type": "visual", "text": "dog", "boxes": [XYWH]}, "visual"),
            ({"boxes": [XYWH]}, "visual"),
            ({"text": "  ", "boxes": [XYWH]}, "visual"),
            ({"type": "text", "boxes": [XYWH]}, "text"),
        ],
    )
    def test_type_is_a_hint(self, prompt: dict[str, Any], kind: str) -> None:
        assert Sam3Prompt.model_validate(prompt).kind == kind

    @pytest.mark.parametrize(
        ("prompt", "mistake"),
        [
            ({"type": "visual"}, ("", "prompt_boxes")),
            ({"type": "visual", "text": "dog"}, ("", "prompt_boxes")),
            ({"type": "visual", "text": "dog", "boxes": []}, ("", "prompt_boxes")),
            ({}, ("", "prompt_empty")),
            ({"type": "text"}, ("", "prompt_empty")),
            ({"text": " \n"}, ("", "prompt_empty")),
            ({"text": None, "boxes": None}, ("", "prompt_empty")),
            ({"type": "points", "text": "dog"}, ("type", "literal_error")),
            ({"text": 5}, ("text", "string_type")),
            ({"text": "dog", "output_prob_thresh": 2}, ("output_prob_thresh", "less_than_equal")),
        ],
    )
    def test_invalid_prompts(self, prompt: dict[str, Any], mistake: tuple[str, str]) -> None:
        assert mistakes(Sam3Prompt, prompt) == [mistake]

    def test_text_is_kept_unchanged(self) -> None:
        assert Sam3Prompt.model_validate({"text": " Two Words "}).text == " Two Words "
        assert Sam3Prompt.model_validate({"text": "", "boxes": [XYWH]}).text is None

    def test_both_box_forms_have_corners(self) -> None:
        boxes = Sam3Prompt.model_validate({"boxes": [XYWH, XYXY]}).boxes
        assert isinstance(boxes[0], TopLeftBox)
        assert isinstance(boxes[1], CornerBox)
        assert [box.corners for box in boxes] == [(10, 20, 40, 60)] * 2

    def test_a_box_with_both_forms_is_xywh(self) -> None:
        (box,) = Sam3Prompt.model_validate({"boxes": [XYWH | XYXY]}).boxes
        assert isinstance(box, TopLeftBox)

    def test_nulls_do_not_select_the_box_form(self) -> None:
        (box,) = Sam3Prompt.model_validate({"boxes": [dict.fromkeys(XYWH) | XYXY]}).boxes
        assert isinstance(box, CornerBox)

    @pytest.mark.parametrize("size", [0, -1, -0.5])
    def test_empty_boxes(self, size: float) -> None:
        for name in ("width", "height"):
            assert mistakes(Sam3Prompt, {"boxes": [XYWH | {name: size}]}) == [
                (f"boxes.0.{name}", "greater_than")
            ]
        for box in ({**XYXY, "x1": 10 + size}, {**XYXY, "y1": 20 + size}):
            assert mistakes(Sam3Prompt, {"boxes": [box]}) == [("boxes.0", "box_size")]

    @pytest.mark.parametrize("box", [None, 5, "box", [], {}, [10, 20, 30, 40], {"left": 1}])
    def test_other_boxes_get_one_message_with_the_forms(self, box: Any) -> None:
        assert mistakes(Sam3Prompt, {"boxes": [box]}) == [("boxes.0", "box_form")]
        with pytest.raises(ValidationError, match=r"x, y, width and height.*x0, y0, x1 and y1"):
            Sam3Prompt.model_validate({"boxes": [box]})

    @pytest.mark.parametrize("box", [XYWH, XYXY])
    def test_missing_box_fields(self, box: dict[str, int]) -> None:
        for name in box:
            partial = {key: value for key, value in box.items() if key != name}
            assert mistakes(Sam3Prompt, {"boxes": [partial]}) == [(f"boxes.0.{name}", "missing")]

    @pytest.mark.parametrize("box", [XYWH, XYXY])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "inf", True, "left", 1e10])
    def test_coordinates_are_finite_numbers(self, box: dict[str, int], value: Any) -> None:
        for name in box:
            where = [where for where, _ in mistakes(Sam3Prompt, {"boxes": [{**box, name: value}]})]
            assert where == [f"boxes.0.{name}"]

    def test_boxes_may_be_outside_and_fractional(self) -> None:
        box = {"x": -5.5, "y": "1.5", "width": 1e6, "height": 0.25}
        (read,) = Sam3Prompt.model_validate({"boxes": [box]}).boxes
        assert read.corners == (-5.5, 1.5, 1e6 - 5.5, 1.75)

    @pytest.mark.parametrize(
        ("labels", "read"),
        [
            ([1, 0], [True, False]),
            ([True, False], [True, False]),
            ([1.0, False], [True, False]),
            (None, [True, True]),
        ],
    )
    def test_labels(self, labels: Any, read: list[bool]) -> None:
        prompt = Sam3Prompt.model_validate({"boxes": [XYWH, XYXY], "box_labels": labels})
        assert prompt.labels == read

    @pytest.mark.parametrize("label", [2, -1, 0.5, math.nan, "1", "yes", None, []])
    def test_invalid_labels(self, label: Any) -> None:
        assert mistakes(Sam3Prompt, {"boxes": [XYWH], "box_labels": [label]}) == [
            ("box_labels.0", "box_label")
        ]

    @pytest.mark.parametrize("labels", [[], [1], [1, 1, 1]])
    def test_one_label_per_box(self, labels: list[int]) -> None:
        prompt = {"boxes": [XYWH, XYXY], "box_labels": labels}
        assert mistakes(Sam3Prompt, prompt) == [("box_labels", "box_labels")]
        with pytest.raises(ValidationError, match=f"{len(labels)} entries for 2"):
            Sam3Prompt.model_validate(prompt)

    def test_labels_need_boxes(self) -> None:
        assert mistakes(Sam3Prompt, {"text": "dog", "box_labels": [1]}) == [
            ("box_labels", "box_labels")
        ]
