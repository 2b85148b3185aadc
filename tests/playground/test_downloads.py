"""Downloads of the visible masks, read by other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from playwright.sync_api import expect
from pycocotools.coco import COCO

from tests.api.pictures import Picture, iou
from tests.api.serving import RunningHere
from tests.playground.desk import Desk, read_image, union


def test_coco_json_and_pngs(
    desk: Desk, picture: Picture, server: RunningHere, tmp_path: Path
) -> None:
    for name in ("JSON", "COCO", "Overlay PNG", "Mask PNG"):
        expect(desk.page.get_by_role("button", name=name, exact=True)).to_be_disabled()
    desk.upload(picture.data)
    desk.ask("red circle", "blue circle")
    item = picture.one("red square")
    desk.click(*item.click())
    desk.chip("blue circle").click()

    file = tmp_path / "coco.json"
    file.write_bytes(desk.download("COCO"))
    data = COCO(str(file))
    (image,) = data.loadImgs(data.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("scene.png", 640, 480)
    names = {each["id"]: each["name"] for each in data.loadCats(data.getCatIds())}
    annotations = data.loadAnns(data.getAnnIds())
    assert [names[a["category_id"]] for a in annotations] == [
        *("red circle", "red circle", "Object 1")
    ]
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
    assert document["image"] == {"name": "scene.png", "width": 640, "height": 480}
    assert [prompt["name"] for prompt in document["prompts"]] == ["red circle", "Object 1"]
    models = [prompt["model"] for prompt in document["prompts"]]
    assert models == ["sam3/demo", server.points_model]
    masks = [each["masks"] for prompt in document["prompts"] for each in prompt["predictions"]]
    assert masks == [annotation["segmentation"] for annotation in annotations]

    mask = read_image(desk.download("Mask PNG"))
    assert ((mask[..., 0] > 127) == union(planes)).all()
    assert set(np.unique(mask[..., :3])) == {0, 255}

    overlay = read_image(desk.download("Overlay PNG"))[..., :3].astype(int)
    changed = np.abs(overlay - picture.scene.image[..., ::-1]).max(axis=-1) > 8
    assert changed.shape == (480, 640)
    # Masks, outlines and scores change pixels; the hidden prompt does not.
    assert changed[union(planes)].mean() > 0.97
    assert changed[union(picture.matching("blue circle"))].mean() < 0.05
