"""Roboflow API: images, limits and responses; arbitrary JSON."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from schemas.common import Limits, validation_detail
from schemas.geometry import CocoRle, CornerBox, Point, TopLeftBox
from schemas.roboflow import (
    EmbeddingRequest,
    EmbeddingResponse,
    Sam2Prompt,
    Sam2SegmentationRequest,
    Sam2SegmentationResponse,
    Sam3Prompt,
    Sam3SegmentationRequest,
    Sam3SegmentationResponse,
    SegmentationPrediction,
)
from tests.schemas.checks import mistakes

IMAGE = {"type": "base64", "value": "aGVsbG8="}
DOG = {"type": "text", "text": "dog"}
XYWH = {"x": 10, "y": 20, "width": 30, "height": 40}
CLICK = {"x": 5, "y": 6, "positive": True}
REQUESTS: list[type[BaseModel]] = [
    Sam3SegmentationRequest,
    Sam2SegmentationRequest,
    EmbeddingRequest,
]


class TestImage:
    @pytest.mark.parametrize("model", REQUESTS)
    @pytest.mark.parametrize(
        "image",
        [
            {"type": "url", "value": "https://example.com/dog.jpg"},
            {"type": "base64", "value": "aGVsbG8="},
            {"type": "base64", "value": "data:image/png;base64,aGVsbG8="},
        ],
    )
    def test_url_and_base64_are_kept_unchanged(
        self, model: type[Any], image: dict[str, str]
    ) -> None:
        request = model.model_validate({"image": image, "prompts": [DOG]})
        assert (request.image.type, request.image.value) == (image["type"], image["value"])

    @pytest.mark.parametrize("model", REQUESTS)
    def test_image_is_optional_with_an_id(self, model: type[Any]) -> None:
        request = model.model_validate({"image": None, "image_id": "dog-1", "prompts": [DOG]})
        assert (request.image, request.image_id) == (None, "dog-1")

    @pytest.mark.parametrize("model", REQUESTS)
    @pytest.mark.parametrize("absent", [{}, {"image": None}, {"image": None, "image_id": None}])
    def test_image_or_id_is_required(self, model: type[Any], absent: dict[str, None]) -> None:
        assert mistakes(model, {"prompts": [DOG], **absent}) == [("image", "missing")]

    def test_numpy_is_rejected(self) -> None:
        for kind in ("numpy", "numpy_object"):
            image = {"type": kind, "value": "aGVsbG8="}
            with pytest.raises(ValidationError, match="NumPy images are not accepted"):
                EmbeddingRequest.model_validate({"image": image})

    def test_unknown_type_lists_the_known_ones(self) -> None:
        with pytest.raises(ValidationError, match="Input should be 'url' or 'base64'"):
            EmbeddingRequest.model_validate({"image": {"type": "file", "value": "a"}})

    @pytest.mark.parametrize(
        ("image", "mistake"),
        [
            ({"type": "url"}, ("image.value", "missing")),
            ({"type": "url", "value": None}, ("image.value", "missing")),
            ({"type": "url", "value": ""}, ("image.value", "string_too_short")),
            ({"type": "base64", "value": 5}, ("image.value", "string_type")),
            ({"value": "a"}, ("image.type", "missing")),
            ("https://example.com/dog.jpg", ("image", "model_type")),
            ([IMAGE, IMAGE], ("image", "one_image")),
        ],
    )
    def test_invalid_image(self, image: Any, mistake: tuple[str, str]) -> None:
        assert mistakes(EmbeddingRequest, {"image": image}) == [mistake]

    @pytest.mark.parametrize(
        ("image_id", "kind"),
        [("", "string_too_short"), (7, "string_type"), ("x" * 257, "string_too_long")],
    )
    def test_invalid_id(self, image_id: Any, kind: str) -> None:
        # Only one error: not also "the request has no image".
        assert mistakes(EmbeddingRequest, {"image_id": image_id}) == [("image_id", kind)]

    def test_key_and_image_are_not_in_the_repr(self) -> None:
        request = EmbeddingRequest.model_validate({"image": IMAGE, "api_key": "s3cret"})
        assert "aGVsbG8=" not in repr(request)
        assert "s3cret" not in repr(request)


class TestLimits:
    """Each limit: the largest accepted and the smallest rejected size."""

    @pytest.mark.parametrize(
        ("model", "limit", "fields", "where"),
        [
            (Sam3SegmentationRequest, "max_prompts", lambda n: {"prompts": [DOG] * n}, "prompts"),
            (
                Sam3SegmentationRequest,
                "max_boxes",
                lambda n: {"prompts": [{"boxes": [XYWH] * n}]},
                "prompts.0.boxes",
            ),
            (
                Sam3SegmentationRequest,
                "max_text_length",
                lambda n: {"prompts": [{"text": "é" * n}]},
                "prompts.0.text",
            ),
            (
                Sam3SegmentationRequest,
                "max_id_length",
                lambda n: {"prompts": [DOG], "model_id": "m" * n},
                "model_id",
            ),
            (EmbeddingRequest, "max_id_length", lambda n: {"image_id": "i" * n}, "image_id"),
            (
                Sam2SegmentationRequest,
                "max_visual_prompts",
                lambda n: {"prompts": {"prompts": [{}] * n}},
                "prompts",
            ),
            (
                Sam2SegmentationRequest,
                "max_points",
                lambda n: {"prompts": {"points": [CLICK] * n}},
                "prompts.0.points",
            ),
        ],
    )
    def test_bounds(self, model: type[BaseModel], limit: str, fields: Any, where: str) -> None:
        for limits, most in ((Limits(**{limit: 3}), 3), (None, getattr(Limits(), limit))):
            data = {"image": IMAGE, **fields(most)}
            model.model_validate(data, context=limits)
            data |= fields(most + 1)
            ((location, kind),) = mistakes(model, data, limits)
            assert (location, kind) in {(where, "too_long"), (where, "string_too_long")}
            with pytest.raises(
                ValidationError, match=f"At most {most} .*INFERENCE_{limit.upper()}"
            ):
                model.model_validate(data, context=limits)

    def test_many_invalid_items_are_one_error(self) -> None:
        assert len(mistakes(Sam2Prompt, {"points": [0] * 1024})) == 1
        assert len(mistakes(Sam3Prompt, {"boxes": [0] * 64, "box_labels": [7] * 64})) == 2


PREDICTION: Any = {"format": "polygon", "confidence": 0.9, "masks": [[[1, 2], [3, 4], [5, 6]]]}
RLE: Any = {"format": "rle", "confidence": 0.9, "masks": {"size": [4, 6], "counts": "52203"}}


class TestResponses:
    def test_masks_are_polygons_or_rle(self) -> None:
        polygon = SegmentationPrediction.model_validate(PREDICTION)
        assert polygon.masks == [[[1, 2], [3, 4], [5, 6]]]
        rle = SegmentationPrediction.model_validate(RLE)
        assert rle.masks == CocoRle(size=[4, 6], counts="52203")

    @pytest.mark.parametrize("masks", [[[[1, 2, 3]]], [[1, 2]], {"counts": "5"}, "5", None])
    def test_invalid_masks(self, masks: Any) -> None:
        with pytest.raises(ValidationError):
            SegmentationPrediction.model_validate({**PREDICTION, "masks": masks})

    def test_concept(self) -> None:
        echo = {"prompt_index": 0, "type": "visual", "num_boxes": 1}
        result = {"prompt_index": 0, "echo": echo, "predictions": [RLE]}
        answer = Sam3SegmentationResponse.model_validate({"prompt_results": [result], "time": 0.1})
        assert answer.prompt_results[0].echo.text is None

    def test_visual_has_both_lists(self) -> None:
        result = {"prompt_index": 0, "predictions": [PREDICTION]}
        answer = {"prompt_results": [result], "predictions": [PREDICTION], "time": 0.1}
        Sam2SegmentationResponse.model_validate(answer)
        for name in answer:
            with pytest.raises(ValidationError):
                Sam2SegmentationResponse.model_validate({**answer, name: None})

    def test_embedding(self) -> None:
        answer = EmbeddingResponse.model_validate({"image_id": "dog-1", "time": 0.1})
        assert answer.model_dump() == {"image_id": "dog-1", "time": 0.1}


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just(10**400)
    | st.sampled_from(["polygon", "visual", "text", "url", "base64", "hiera_tiny", "\ud800"])
)
NAMES = st.sampled_from(
    [
        *Sam3SegmentationRequest.model_fields,
        *Sam2SegmentationRequest.model_fields,
        *Sam3Prompt.model_fields,
        *Sam2Prompt.model_fields,
        *TopLeftBox.model_fields,
        *CornerBox.model_fields,
        *Point.model_fields,
        "value",
    ]
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5)
)


@pytest.mark.parametrize("model", REQUESTS)
@given(data=ANYTHING | st.dictionaries(NAMES, ANYTHING))
def test_arbitrary_json_is_accepted_or_rejected(model: type[BaseModel], data: Any) -> None:
    try:
        model.model_validate(data)
    except ValidationError as error:
        detail = validation_detail(error)
        assert detail
        assert all(item.keys() == {"loc", "msg", "type"} for item in detail)
