"""Labels that the page opens; in Node, without a browser."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import yaml

from tests.playground.test_polygons import STATIC, node, rle

SIZE = {"width": 640, "height": 480}
PLANE = np.zeros((480, 640), bool)
PLANE[10:50, 20:70] = True
MASK = rle(PLANE)
BOX = [20, 10, 50, 40]

OPEN = """
    const { Classes } = await import(new URL("classes.js", value.base));
    const { Document } = await import(new URL("document.js", value.base));
    const classes = new Classes();
    const documents = new Map();
    const project = {
      classes,
      entries: ["a.png", "b.png"].map((name) => ({ id: name, name, width: 640, height: 480 })),
      document: async (id) => documents.get(id) ?? null,
      save: (id, document) => documents.set(id, document),
      set: () => {},
    };
    const file = { name: "labels.json", text: async () => JSON.stringify(value.content) };
    const result = { told: null, title: null };
    try {
      result.told = await it.addLabels({ project, picture: null }, file);
    } catch (problem) {
      result.title = problem.title ?? problem.name;
      result.told = problem.text ?? problem.message;
    }
    result.classes = classes.list.map((each) => each.name);
    result.boxes = [...documents].map(([name, document]) => [
      name,
      document.shown({ threshold: 0, overlap: 1 }).map((each) => each.mask.box),
    ])"""


def opened(content: Any) -> dict[str, Any]:
    """Open a file of labels with two pictures in the strip; return what the page has then."""
    return dict(node("imports.js", OPEN, {"content": content, "base": f"{STATIC.as_uri()}/"}))


def coco(segmentation: Any = MASK, **changed: Any) -> dict[str, Any]:
    """COCO labels of both pictures; the second one has the segmentation."""
    return {
        "images": [{"id": i, "file_name": f"{n}.png", **SIZE} for i, n in ((1, "a"), (2, "b"))],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": MASK},
            {"image_id": 2, "category_id": 1, "segmentation": segmentation},
        ],
        **changed,
    }


def own(**changed: Any) -> dict[str, Any]:
    """Labels in the page's format; the prompt of the second picture has the changes."""
    found = {"format": "rle", "confidence": 0.9, "masks": MASK}
    prompt = {"class": "thing", "model": "", "points": [], "predictions": [found]}
    return {
        "format": "inference-server-playground",
        "classes": [{"name": "thing", "colour": "#19c3e6"}],
        "images": [
            {"name": "a.png", **SIZE, "prompts": [prompt]},
            {"name": "b.png", **SIZE, "prompts": [{**copy.deepcopy(prompt), **changed}]},
        ],
    }


@pytest.mark.parametrize(
    "content",
    [
        coco(),
        coco({"size": [480, 640], "counts": [20 * 480 + 10, *[40, 440] * 49, 40]}),
        coco([[20, 10, 70, 10, 70, 50, 20, 50]]),
        own(),
        own(type="text", text="a thing"),
    ],
)
def test_labels_are_added(content: dict[str, Any]) -> None:
    assert opened(content) == {
        "told": "Added the labels of 2 of 2 pictures.",
        "title": None,
        "classes": ["thing"],
        "boxes": [["a.png", [BOX]], ["b.png", [BOX]]],
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (coco({"counts": [0, 1_000_000_000]}), "annotations[1].segmentation.counts exceed"),
        (coco({"counts": [-5, 10]}), "annotations[1].segmentation.counts[0] is not a number"),
        (coco({"counts": ["5", 10]}), "annotations[1].segmentation.counts[0] is not a number"),
        (coco({"counts": "0PPPPPo0"}), "annotations[1].segmentation.counts exceed"),
        (coco({"counts": "\x7f~"}), "annotations[1].segmentation.counts is not RLE"),
        (coco({"size": [9, 9], "counts": [0, 9]}), "annotations[1].segmentation.size is not"),
        (coco({}), "annotations[1].segmentation.counts is not RLE"),
        (coco("x"), "annotations[1].segmentation is neither polygons nor RLE"),
        (coco([[1, 2, None, 4]]), "annotations[1].segmentation[0] is not a list of x and y"),
        (coco(images=[{}]), "images[0] has no file_name"),
        (coco(images=[{"file_name": "a.png"}]), "images[0] needs width and height"),
        (coco(images=[None]), "images[0] is not an object"),
        (coco(categories=[None]), "categories[0] is not an object"),
        (coco(annotations=[None]), "annotations[0] is not an object"),
        (own(predictions=[]), "images[1].prompts[0].predictions is empty"),
        (own(points=None), "images[1].prompts[0].points is not a list"),
        (own(points=[{"x": 1}]), "images[1].prompts[0].points[0] needs x and y"),
        (own(type="visual"), "images[1].prompts[0].boxes is not a list"),
        (
            own(predictions=[{"confidence": 1, "masks": {"size": [480, 640], "counts": [0, 1]}}]),
            "images[1].prompts[0].predictions[0].masks is not RLE",
        ),
        ({**own(), "classes": None}, "classes is not a list"),
        ({**own(), "images": [{**SIZE, "name": "a.png"}]}, "images[0].prompts is not a list"),
    ],
)
def test_bad_labels_add_nothing(content: dict[str, Any], told: str) -> None:
    found = opened(content)
    assert (found["title"], found["classes"], found["boxes"]) == ("Invalid labels", [], [])
    assert found["told"].startswith(f"labels.json: {told}")


def test_yaml_of_any_class() -> None:
    names = ["a\x7fb", "c\x85d", "e\u2028f", "g\ufffeh", "tab\t", 'quote"\\', "ä 😀"]
    listed = node("exports.js", "const result = value.map(it.yamlString)", names)
    assert [yaml.safe_load(each) for each in listed] == names
