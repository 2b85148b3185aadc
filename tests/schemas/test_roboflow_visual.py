"""Roboflow API: visual requests and prompts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.geometry import CenterBox, Point
from schemas.roboflow import (
    EmbeddingRequest,
    Sam2EmbeddingRequest,
    Sam2Prompt,
    Sam2SegmentationRequest,
    VisualSegmentationRequest,
)
from tests.schemas.checks import mistakes

IMAGE = {"type": "base64", "value": "aGVsbG8="}
DOG = {"type": "text", "text": "dog"}
XYWH = {"x": 10, "y": 20, "width": 30, "height": 40}
CLICK = {"x": 5, "y": 6, "positive": True}


def visual(**fields: Any) -> Sam2SegmentationRequest:
    return Sam2SegmentationRequest.model_validate({"image": IMAGE, **fields})


class TestVisualRequest:
    def test_defaults(self) -> None:
        request = visual()
        assert (request.format, request.mask_format) == ("json", "polygon")
        assert request.sam2_version_id == "hiera_large"
        assert VisualSegmentationRequest.model_validate({"image": IMAGE}).sam2_version_id is None
        assert request.multimask_output is True
        assert request.save_logits_to_cache is False
        assert request.load_logits_from_cache is False

    def test_explicit_nulls_mean_absent(self) -> None:
        nulls = dict.fromkeys(name for name in Sam2SegmentationRequest.model_fields)
        assert visual(**{**nulls, "image": IMAGE}) == visual()

    @pytest.mark.parametrize(
        ("sent", "meant"),
        [("json", "polygon"), ("polygon", "polygon"), ("rle", "rle"), ("binary", "binary")],
    )
    def test_format_and_its_alias(self, sent: str, meant: str) -> None:
        assert visual(format=sent).mask_format == meant

    def test_unknown_format_lists_the_known_ones(self) -> None:
        with pytest.raises(ValidationError, match="'json', 'polygon', 'rle' or 'binary'"):
            visual(format="png")

    @pytest.mark.parametrize(
        ("model", "default"),
        [
            (Sam2SegmentationRequest, "hiera_large"),
            (VisualSegmentationRequest, None),
            (Sam2EmbeddingRequest, "hiera_large"),
            (EmbeddingRequest, None),
        ],
    )
    def test_version(self, model: type[Any], default: str | None) -> None:
        assert model.model_validate({"image": IMAGE}).sam2_version_id == default
        for version in ("hiera_tiny", "hiera_small", "hiera_b_plus", "hiera_large"):
            request = model.model_validate({"image": IMAGE, "sam2_version_id": version})
            assert request.sam2_version_id == version
        with pytest.raises(ValidationError, match="'hiera_tiny', 'hiera_small', 'hiera_b_plus' or"):
            model.model_validate({"image": IMAGE, "sam2_version_id": "hiera_huge"})

    @pytest.mark.parametrize(
        "absent",
        [
            {},
            {"prompts": None},
            {"prompts": []},
            {"prompts": {}},
            {"prompts": {"prompts": None}},
            {"prompts": {"prompts": []}},
        ],
    )
    def test_absent_prompts_are_one_empty_prompt(self, absent: dict[str, Any]) -> None:
        assert visual(**absent).prompts == [Sam2Prompt()]

    @pytest.mark.parametrize(
        "prompt", [{"box": XYWH}, {"points": [CLICK]}, {"box": XYWH, "points": [CLICK]}]
    )
    def test_all_forms_of_prompts_are_equivalent(self, prompt: dict[str, Any]) -> None:
        read = [Sam2Prompt.model_validate(prompt)]
        assert read != [Sam2Prompt()]
        for form in ({"prompts": [prompt]}, [prompt], prompt, {**prompt, "prompts": None}):
            assert visual(prompts=form).prompts == read

    @pytest.mark.parametrize("form", [5, "dog", True, {"prompts": 5}, {"prompts": {"box": XYWH}}])
    def test_other_forms_get_one_message(self, form: Any) -> None:
        data = {"image": IMAGE, "prompts": form}
        assert mistakes(Sam2SegmentationRequest, data) == [("prompts", "prompts_form")]

    @pytest.mark.parametrize(
        "name", ["multimask_output", "save_logits_to_cache", "load_logits_from_cache"]
    )
    def test_flags(self, name: str) -> None:
        for value in (True, False):
            assert getattr(visual(**{name: value}), name) is value
        assert mistakes(Sam2SegmentationRequest, {"image": IMAGE, name: "perhaps"}) == [
            (name, "bool_parsing")
        ]


class TestVisualPrompt:
    def test_box_is_given_by_its_centre(self) -> None:
        box = Sam2Prompt.model_validate({"box": XYWH}).box
        assert isinstance(box, CenterBox)
        assert box.corners == (-5, 0, 25, 40)

    def test_points(self) -> None:
        points = [CLICK, {"x": -1.5, "y": "2", "positive": False}]
        assert Sam2Prompt.model_validate({"points": points}).points == [
            Point(x=5, y=6, positive=True),
            Point(x=-1.5, y=2, positive=False),
        ]

    def test_nulls_mean_absent(self) -> None:
        assert Sam2Prompt.model_validate({"box": None, "points": None}) == Sam2Prompt()

    @pytest.mark.parametrize(
        ("prompt", "mistake"),
        [
            ({"box": {**XYWH, "width": 0}}, ("box.width", "greater_than")),
            ({"box": {**XYWH, "height": -1}}, ("box.height", "greater_than")),
            ({"box": {**XYWH, "x": math.nan}}, ("box.x", "finite_number")),
            ({"box": {**XYWH, "x": True}}, ("box.x", "float_type")),
            ({"box": [1, 2, 3, 4]}, ("box", "model_type")),
            ({"points": CLICK}, ("points", "list_type")),
            ({"points": [[5, 6]]}, ("points.0", "model_type")),
            ({"points": [{"x": 5, "y": 6}]}, ("points.0.positive", "missing")),
            ({"points": [{**CLICK, "y": None}]}, ("points.0.y", "missing")),
            ({"points": [{**CLICK, "y": math.inf}]}, ("points.0.y", "finite_number")),
            ({"points": [{**CLICK, "x": False}]}, ("points.0.x", "float_type")),
            ({"points": [{**CLICK, "positive": "often"}]}, ("points.0.positive", "bool_parsing")),
        ],
    )
    def test_invalid_prompts(self, prompt: dict[str, Any], mistake: tuple[str, str]) -> None:
        assert mistakes(Sam2Prompt, prompt) == [mistake]
