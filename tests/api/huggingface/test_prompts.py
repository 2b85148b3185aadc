"""Assignment of points to boxes, and invalid prompts."""

from __future__ import annotations

from typing import Any

import pytest

from inference_server.api.huggingface.prompts import SpacePrompts
from inference_server.errors import RequestError
from schemas.huggingface import SpaceInputs

LEFT, RIGHT, BOTH = [0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 30, 10]


def prompts(**fields: Any) -> SpacePrompts:
    return SpacePrompts.of(SpaceInputs.model_validate({"image": "aGk=", **fields}))


def objects(read: SpacePrompts) -> list[tuple[Any, list[Any], list[int]]]:
    """Return (box, points, labels) of each object."""
    return [
        (
            None if each.box is None else each.box.tolist(),
            each.points.tolist(),
            each.labels.tolist(),
        )
        for each in read.objects
    ]


def test_words_are_one_concept_each() -> None:
    read = prompts(text_prompts=["cat", "dog"], confidence_threshold=0.3)
    assert [concept.text for concept in read.concepts] == ["cat", "dog"]
    assert {concept.threshold for concept in read.concepts} == {0.3}
    assert (read.objects, read.kinds) == ([], ["text"])
    assert read.excluded.shape == (0, 4)


def test_a_box_takes_the_points_in_it() -> None:
    read = prompts(
        boxes=[LEFT, RIGHT],
        box_labels=[1, 1],
        points=[[5, 5], [25, 5], [15, 5], [30, 10], [16, 40]],
        point_labels=[1, 0, 1, 1, 0],
        confidence_threshold=0.25,
    )
    assert objects(read) == [
        (LEFT, [[5, 5]], [1]),
        (RIGHT, [[25, 5], [30, 10]], [0, 1]),
        (None, [[15, 5], [16, 40]], [1, 0]),
    ]
    assert {each.threshold for each in read.objects} == {0.25}
    assert read.kinds == ["visual"]


def test_a_point_in_two_boxes_belongs_to_both() -> None:
    read = prompts(boxes=[LEFT, BOTH], box_labels=[1, 1], points=[[5, 5]], point_labels=[1])
    assert objects(read) == [(LEFT, [[5, 5]], [1]), (BOTH, [[5, 5]], [1])]


def test_a_negative_box_takes_no_points() -> None:
    read = prompts(boxes=[LEFT, RIGHT], box_labels=[0, 1], points=[[5, 5]], point_labels=[1])
    assert objects(read) == [(RIGHT, [], []), (None, [[5, 5]], [1])]
    assert read.excluded.tolist() == [LEFT]


def test_negative_points_alone_show_no_object() -> None:
    read = prompts(boxes=[LEFT], box_labels=[1], points=[[50, 50]], point_labels=[0])
    assert objects(read) == [(LEFT, [], [])]
    read = prompts(text_prompts=["cat"], points=[[50, 50]], point_labels=[0])
    assert objects(read) == []
    assert read.kinds == ["text", "visual"]


NEGATIVE = (
    "All boxes and points are negative. Send at least one positive box or point (label 1), or "
    "text_prompts"
)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "At least one of text_prompt, boxes, or points must be provided"),
        (
            {"box_labels": [1], "point_labels": [1]},
            "At least one of text_prompt, boxes, or points must be provided",
        ),
        ({"boxes": [LEFT]}, "box_labels must be provided when boxes are specified"),
        ({"points": [[1, 2]]}, "point_labels must be provided when points are specified"),
        (
            {"boxes": [LEFT, RIGHT], "box_labels": [1]},
            "box_labels has 1 entries for 2 boxes; send one label per box, 1 for positive or 0 for "
            "negative",
        ),
        (
            {"points": [[1, 2]], "point_labels": [1, 0]},
            "point_labels has 2 entries for 1 points; send one label per point, 1 for positive or "
            "0 for negative",
        ),
        ({"boxes": [LEFT], "box_labels": [0]}, NEGATIVE),
        ({"points": [[1, 2]], "point_labels": [0]}, NEGATIVE),
        (
            {"boxes": [LEFT], "box_labels": [0], "points": [[1, 2]], "point_labels": [0]},
            NEGATIVE,
        ),
    ],
)
def test_invalid_prompts(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError) as caught:
        prompts(**fields)
    assert caught.value.message == told
    assert caught.value.status == 400
