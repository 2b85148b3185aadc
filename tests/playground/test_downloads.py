"""Downloads of the visible masks, read by other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import expect
from pycocotools.coco import COCO

from tests.api.pictures import Picture, iou
from tests.api.serving import RunningHere
from tests.playground.desk import Desk, read_image, union
from tests.playground.test_polygons import rle


def test_coco_json_and_pngs(
    desk: Desk, picture: Picture, server: RunningHere, tmp_path: Path
) -> None:
    for name in ("JSON", "COCO", "YOLO", "PNG per mask", "Overlay PNG", "Mask PNG"):
        expect(desk.page.get_by_role("button", name=name, exact=True)).to_be_disabled()
    desk.upload(picture.data)
    # "blue circle" is a word of another class.
    desk.ask("red circle", "round=blue circle", "red square")
    item = picture.one("red square")
    desk.page.get_by_role("button", name="Remove red square").click()
    desk.press("3")
    desk.click(*item.click())
    desk.page.get_by_role("button", name="Show blue circle,").click()
    desk.page.get_by_role("combobox", name="COCO masks").select_option("RLE")

    file = tmp_path / "coco.json"
    file.write_bytes(desk.download("COCO"))
    data = COCO(str(file))
    (image,) = data.loadImgs(data.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("scene.png", 640, 480)
    names = {each["id"]: each["name"] for each in data.loadCats(data.getCatIds())}
    annotations = data.loadAnns(data.getAnnIds())
    assert [names[a["category_id"]] for a in annotations] == [
        *("red circle", "red circle", "red square")
    ]
    assert list(names.values()) == ["red circle", "round", "red square"]
    planes = [data.annToMask(a).astype(bool) for a in annotations]
    truth = [*picture.matching("red circle"), item.mask]
    assert iou(union(planes), union(truth)) > 0.7
    for annotation, mask in zip(annotations, planes, strict=True):
        ys, xs = np.nonzero(mask)
        box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert annotation["bbox"] == [int(side) for side in box]
        assert annotation["area"] == mask.sum()
        assert 0.5 <= annotation["score"] <= 1

    document = json.loads(desk.download("JSON"))
    (stored,) = document["images"]
    assert (stored["name"], stored["width"], stored["height"]) == ("scene.png", 640, 480)
    assert [prompt["name"] for prompt in stored["prompts"]] == ["red circle", "Object 1"]
    assert [prompt["class"] for prompt in stored["prompts"]] == ["red circle", "red square"]
    models = [prompt["model"] for prompt in stored["prompts"]]
    assert models == ["sam3/demo", server.points_model]
    masks = [each["masks"] for prompt in stored["prompts"] for each in prompt["predictions"]]
    assert masks == [annotation["segmentation"] for annotation in annotations]

    mask = read_image(desk.download("Mask PNG"))
    assert ((mask > 127) == union(planes)).all()
    assert set(np.unique(mask)) == {0, 255}

    overlay = read_image(desk.download("Overlay PNG"))[..., :3].astype(int)
    changed = np.abs(overlay - picture.scene.image[..., ::-1]).max(axis=-1) > 8
    assert changed.shape == (480, 640)
    # Masks, outlines and scores change pixels; the hidden prompt does not.
    assert changed[union(planes)].mean() > 0.97
    assert changed[union(picture.matching("blue circle"))].mean() < 0.05

    # The polygons have the points that the page tells, and fewer if they are simplified.
    desk.page.get_by_role("combobox", name="COCO masks").select_option("Polygons")
    counts = []
    for epsilon in (0, 1, 4):
        desk.slide("Simplify polygons", epsilon)
        file.write_bytes(desk.download("COCO"))
        data = COCO(str(file))
        annotations = data.loadAnns(data.getAnnIds())
        counts.append(sum(len(flat) // 2 for a in annotations for flat in a["segmentation"]))
        expect(desk.page.locator("#points")).to_contain_text(f"{counts[-1]} points in ")
        again = union([data.annToMask(a).astype(bool) for a in annotations])
        assert iou(again, union(planes)) > (0.97 if epsilon < 2 else 0.9)
    assert counts[0] > 3 * counts[1] > 3 * counts[2]

    # Labels can be opened again: those of COCO as masks, those of the page with their prompts.
    shown, calls = desk.drawn(picture.size), len(desk.calls)
    own = json.dumps(document).encode()
    for name, labels in {"labels.json": own, "coco.json": _as_coco(annotations, data)}.items():
        desk.page.get_by_role("button", name="Clear").click()
        desk.settle()
        assert not desk.drawn(picture.size).any()
        desk.open({name: labels})
        expect(desk.status).to_have_text("Added the labels of 1 of 1 pictures.")
        desk.settle()
        assert iou(desk.drawn(picture.size), shown) > 0.9
        if name == "labels.json":
            expect(desk.chip("red circle")).to_contain_text("2")
            expect(
                desk.page.get_by_role("button", name="Object 1 mask, red square")
            ).to_be_visible()
    assert desk.page.get_by_role("button", name="Remove Object").count() == len(annotations) == 3
    assert len(desk.calls) == calls
    desk.open({"other.json": b"{}"})
    expect(desk.page.get_by_role("alert").first).to_contain_text("Unknown labels")


def _as_coco(annotations: list[Any], data: COCO) -> bytes:
    """A COCO file with each form of masks: polygons, runs as text, runs as a list."""
    polygon, text, runs = annotations
    plane = data.annToMask(runs)
    changes = np.flatnonzero(np.diff(plane.T.ravel(), prepend=0, append=0))
    counts = np.diff(changes, prepend=0, append=plane.size).tolist()
    forms = [
        polygon,
        {**text, "segmentation": rle(data.annToMask(text).astype(bool))},
        {**runs, "segmentation": {"size": plane.shape, "counts": counts}},
    ]
    return json.dumps({**data.dataset, "annotations": forms}).encode()
