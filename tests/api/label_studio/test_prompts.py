"""Prompts of the editor, labels and configurations, without a server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from inference_server.api.label_studio.config import Control, LabelConfig, read_config
from inference_server.api.label_studio.parameters import parameters_of
from inference_server.api.label_studio.prompts import (
    Interaction,
    interactions,
    label_of,
    visual_options,
    work_of,
)
from inference_server.errors import PromptError
from schemas.common import Limits
from schemas.label_studio import LabelStudioItem
from tests.api.label_studio.projects import config


def parsed(text: str) -> LabelConfig:
    return read_config(text, max_bytes=10**5, max_tags=1000, max_controls=1000)


class _Counted(str):
    """A text that counts how often it is compared."""

    __slots__ = ()
    compared: ClassVar[int] = 0

    def __eq__(self, other: object) -> bool:
        _Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def items(*told: dict[str, Any]) -> list[LabelStudioItem]:
    return [LabelStudioItem.model_validate(each) for each in told]


def box(x: float, y: float, w: float, h: float, **fields: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": w, "height": h, **fields}
    return {"type": "rectanglelabels", "value": value}


def spot(x: float, y: float, **fields: Any) -> dict[str, Any]:
    return {"type": "keypointlabels", "value": {"x": x, "y": y, "width": 1}, **fields}


class TestConfig:
    def test_controls_belong_to_images(self) -> None:
        found = parsed(
            '<View><Image name="a" value="$x"/><Image name="b" value="$y"/><View>'
            '<PolygonLabels name="p" toName="b"><View><Label value="l"/></View></PolygonLabels>'
            '<BrushLabels name="q" toName="none"/><BrushLabels name="r" toName="none,a"/></View>'
            '<Labels name="s" toName="a"><Label value="m"/></Labels></View>'
        )
        assert found.images == {"a": "x", "b": "y"}
        assert [(each.name, each.image, list(each.names)) for each in found.controls] == [
            ("p", "b", ["l"]),
            ("r", "a", []),
        ]
        assert found.output().name == "r"
        assert found.output("b").name == "p"
        assert found.output(name="p").name == "p"
        assert found.control("p") == found.controls[0]
        assert found.control(None) is None

    def test_a_control_is_found_without_comparing_all_names(self) -> None:
        names = [_Counted(f"c{n}") for n in range(200)]
        controls = tuple(Control("brushlabels", name, "a", (), {}) for name in names)
        found = LabelConfig({"a": "x"}, (*controls, replace(controls[0], image="b")), "")
        _Counted.compared = 0
        assert found.control("c199") is controls[199]
        assert found.control("none") is None
        assert found.control("c0") is controls[0]
        assert _Counted.compared < 20

    def test_the_digest_ignores_white_space(self) -> None:
        text = config("cat")
        assert parsed(text).digest == parsed(text.replace("><", "> \n <")).digest
        assert parsed(text).digest != parsed(text.replace("cat", "dog")).digest
        nested = '<View><Image name="a" value="$x"/><View><View/></View></View>'
        beside = '<View><Image name="a" value="$x"/><View/><View/></View>'
        assert parsed(nested).digest != parsed(beside).digest


class TestParameters:
    def test_attributes_override_extra_params(self) -> None:
        found = parsed(config("cat", attributes='model_box="exemplar" model_unknown="1" x="2"'))
        extra = {"box": "object", "score_threshold": 0.2, "unknown": {}}
        parameters = parameters_of(extra, (found.output(), None), Limits())
        assert (parameters.box, parameters.score_threshold) == ("exemplar", 0.2)

    @pytest.mark.parametrize("extra", [{"score_threshold": 2}, {"box": "x"}, {"output": []}])
    def test_invalid_values(self, extra: dict[str, Any]) -> None:
        with pytest.raises(PromptError, match=next(iter(extra))):
            parameters_of(extra, (None,), Limits())


class TestObjects:
    def test_lengths_are_percent_and_keep_fractions(self) -> None:
        (one,) = interactions(items(box(10.1, 20.2, 30.3, 40.4)), Limits())
        (prompt,) = one.objects((500, 1000))
        assert prompt.box is not None
        np.testing.assert_allclose(prompt.box, [101, 101, 404, 303], rtol=1e-5)
        (one,) = interactions(items(spot(10.15, 20.25)), Limits())
        (prompt,) = one.objects((500, 1000))
        np.testing.assert_allclose(prompt.points, [[101.5, 101.25]], rtol=1e-5)
        assert visual_options([prompt]).multimask

    def test_points_refine_a_single_rectangle(self) -> None:
        told = items(box(0, 0, 10, 10), spot(5, 5, is_positive=False))
        (prompt,) = interactions(told, Limits())[0].objects((100, 100))
        assert prompt.box is not None
        assert prompt.labels.tolist() == [0]
        assert not visual_options([prompt]).multimask

    def test_several_rectangles_are_several_objects(self) -> None:
        told = items(box(0, 0, 10, 10), box(20, 20, 10, 10), spot(50, 50))
        prompts = interactions(told, Limits())[0].objects((100, 100))
        assert [prompt.box is not None for prompt in prompts] == [True, True, False]

    def test_labels_are_apart(self) -> None:
        told = [spot(1, 1), spot(2, 2)]
        for each, label in zip(told, ("a", "b"), strict=True):
            each["value"]["keypointlabels"] = [label]
        assert [one.label for one in interactions(items(*told), Limits())] == ["a", "b"]

    @pytest.mark.parametrize("told", [{"is_positive": False}, {"positive": False}])
    def test_negative_prompts_alone_select_nothing(self, told: dict[str, Any]) -> None:
        point = spot(1, 1)
        point |= told if "is_positive" in told else {}
        point["value"] |= told if "positive" in told else {}
        (one,) = interactions(items(point), Limits())
        assert one.objects((10, 10)) == []

    def test_a_turned_rectangle(self) -> None:
        (one,) = interactions(items(box(50, 50, 20, 10, rotation=90)), Limits())
        (prompt,) = one.objects((100, 200))
        assert prompt.box is not None
        # Turned clockwise at its corner, which becomes the upper right one.
        np.testing.assert_allclose(prompt.box, [90, 50, 100, 90], atol=1e-4)

    @pytest.mark.parametrize(
        ("told", "limits"),
        [
            (spot(1, 1), Limits(max_points=2)),
            (box(1, 1, 1, 1), Limits(max_boxes=2)),
            ({"value": {"text": "cat"}}, Limits(max_prompts=2)),
            (box(1, 1, 1, 1), Limits(max_visual_prompts=2)),
        ],
    )
    def test_too_many(self, told: dict[str, Any], limits: Limits) -> None:
        work_of(interactions(items(told, told), limits), "object", limits)
        with pytest.raises(PromptError, match="at most 2"):
            work_of(interactions(items(told, told, told), limits), "object", limits)


class TestWork:
    @pytest.mark.parametrize(
        ("told", "box_is", "work"),
        [
            ([("a", "words")], "object", ["concept"]),
            ([("a", "words"), ("b", "words")], "object", ["concept"]),
            ([("a", "box")], "object", ["visual"]),
            ([("a", "box")], "exemplar", ["concept"]),
            ([("a", "not box")], "exemplar", []),
            ([("a", "point")], "exemplar", ["visual"]),
            ([("a", "words"), ("b", "point")], "object", ["concept", "visual"]),
            ([("a", "words"), ("b", "not point")], "object", ["concept"]),
            ([("a", "box"), ("b", "point")], "exemplar", ["concept", "visual"]),
        ],
    )
    def test_a_request_pays_for_each_kind(
        self, told: list[tuple[str, str]], box_is: str, work: list[str]
    ) -> None:
        assert work_of(self._chosen(told), box_is, Limits()) == work

    @pytest.mark.parametrize(
        ("kind", "box_is", "limits"),
        [
            ("words", "object", Limits(max_prompts=2)),
            ("box", "exemplar", Limits(max_prompts=2)),
            ("box", "object", Limits(max_visual_prompts=2)),
            ("point", "object", Limits(max_visual_prompts=2)),
        ],
    )
    def test_the_labels_of_a_request_share_its_limits(
        self, kind: str, box_is: str, limits: Limits
    ) -> None:
        work_of(self._chosen([("a", kind), ("b", kind)]), box_is, limits)
        with pytest.raises(PromptError, match=r"3 .* at most 2 .* INFERENCE_MAX_"):
            work_of(self._chosen([("a", kind), ("b", kind), ("c", kind)]), box_is, limits)

    @pytest.mark.parametrize(
        "told",
        [
            [box(0, 0, 9, 9)],
            [box(0, 0, 9, 9), spot(1, 1)],
            [box(0, 0, 9, 9), spot(1, 1, is_positive=False)],
            [box(0, 0, 9, 9), box(9, 9, 9, 9), spot(1, 1)],
            [box(0, 0, 9, 9), box(9, 9, 9, 9), spot(1, 1, is_positive=False)],
            [spot(1, 1), spot(2, 2)],
            [spot(1, 1, is_positive=False)],
            [box(0, 0, 9, 9, positive=False), spot(1, 1)],
        ],
    )
    def test_objects_are_counted_as_they_are_asked_for(self, told: list[dict[str, Any]]) -> None:
        (one,) = interactions(items(*told), Limits())
        assert one.count("object") == (0, len(one.objects((100, 100))))

    def _chosen(self, told: list[tuple[str, str]]) -> list[Interaction]:
        made = []
        for label, kind in told:
            values: dict[str, dict[str, Any]] = {
                "words": {"text": "cat"},
                "box": {"x": 1, "y": 1, "width": 9, "height": 9},
                "point": {"x": 1, "y": 1},
            }
            value = values[kind.removeprefix("not ")]
            made.append({"value": {**value, "labels": [label]}, "is_positive": kind in values})
        return interactions(items(*made), Limits())


@pytest.mark.parametrize(
    ("words", "chosen", "label"),
    [
        ("car", None, "Car"),
        ("a red Car, parked", None, "Car"),
        ("police car", None, "Police"),
        ("scar", None, "Bus"),
        ("lorry", None, "Truck"),
        (None, None, "Bus"),
        ("car", "Mine", "Mine"),
    ],
)
def test_the_label_of_words(words: str | None, chosen: str | None, label: str) -> None:
    output = parsed(
        config(
            "Bus",
            "Car",
            '<Label value="Police" predicted_values="police car"/>',
            '<Label value="Truck" predicted_values="truck, lorry"/>',
        )
    ).output()
    assert label_of(output, words, chosen) == label
