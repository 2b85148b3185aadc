"""A person labels ten pictures with three classes; the exported data sets are scored."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from playwright.sync_api import expect
from pycocotools.coco import COCO

from inference_server.demo.scenes import Scene, SceneObject, make_scene
from tests.api.pictures import Picture, Plane, iou
from tests.playground.desk import Desk, read_image

CLASSES = ("circle", "square", "star")
SIZE = (320, 240)
MATCH = 0.5
"""Minimum IoU of a mask and the object that it is of."""


def scenes() -> dict[str, Scene]:
    """Ten scenes by file name."""
    return {
        f"picture-{n}.png": make_scene(700 + n, SIZE, count=(4, 6), shapes=CLASSES)
        for n in range(10)
    }


def planes_of(data: COCO, image: Mapping[str, Any]) -> list[tuple[str, Plane]]:
    """Class and mask of the annotations of an image."""
    names = {each["id"]: each["name"] for each in data.loadCats(data.getCatIds())}
    found = data.loadAnns(data.getAnnIds(imgIds=[image["id"]]))
    return [(names[a["category_id"]], data.annToMask(a).astype(bool)) for a in found]


def correct(desk: Desk, scene: Scene, found: Sequence[tuple[str, Plane]]) -> int:
    """Do what a person does: remove wrong masks, click on objects that were missed.

    Returns:
        The number of corrections.
    """
    left = list(scene.objects)
    done = 0
    for name, mask in found:
        match = max(left, key=lambda item: iou(item.mask, mask), default=None)
        if match is not None and match.shape == name and iou(match.mask, mask) > MATCH:
            left = [each for each in left if each is not match]
            continue
        inside = SceneObject("", "", mask, (0, 0), 0)
        desk.click(*inside.click(), holding="Alt")
        desk.press("Delete")
        done += 1
    for item in left:
        desk.press(str(CLASSES.index(item.shape) + 1), "n")
        desk.click(*item.click())
        done += 1
    return done


def score(planes: Mapping[str, list[tuple[str, Plane]]]) -> dict[str, float]:
    """Precision, recall and mean IoU with the truth of all pictures."""
    overlaps: list[float] = []
    truth = made = 0
    for name, scene in scenes().items():
        left = list(planes[name])
        made += len(left)
        truth += len(scene.objects)
        for item in scene.objects:
            same = [each for each in left if each[0] == item.shape]
            best = max(same, key=lambda each: iou(each[1], item.mask), default=None)
            if best is not None and iou(best[1], item.mask) > MATCH:
                overlaps.append(iou(best[1], item.mask))
                left = [each for each in left if each is not best]
    return {
        "objects": truth,
        "precision": len(overlaps) / made,
        "recall": len(overlaps) / truth,
        "iou": float(np.mean(overlaps)),
    }


def yolo_planes(data: bytes) -> dict[str, list[tuple[str, Plane]]]:
    """Class and mask of each line of YOLO's labels, by file name of the picture."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = yaml.safe_load(archive.read("data.yaml"))["names"]
        found = {}
        for file in scenes():
            planes = []
            for line in archive.read(f"labels/{Path(file).stem}.txt").decode().splitlines():
                index, *numbers = line.split()
                points = np.array(numbers, float).reshape(-1, 2) * SIZE
                canvas = np.zeros(SIZE[::-1], np.uint8)
                cv2.fillPoly(canvas, [points.round().astype(np.int32)], 1)
                planes.append((names[int(index)], canvas.astype(bool)))
            found[file] = planes
    return found


def png_planes(data: bytes) -> dict[str, list[tuple[str, Plane]]]:
    """Class and mask of each PNG, by file name of the picture."""
    found: dict[str, list[tuple[str, Plane]]] = {file: [] for file in scenes()}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            plane = read_image(archive.read(name)) > 127
            found[f"{Path(name).parent}.png"].append((Path(name).stem[4:], plane))
    return found


def test_ten_pictures_with_three_classes(desk: Desk, tmp_path: Path) -> None:
    page = desk.page
    pictures = scenes()
    desk.open({name: Picture(scene).data for name, scene in pictures.items()})
    expect(page.locator("#position")).to_have_text("1 of 10")
    desk.ask(*CLASSES)
    page.get_by_role("combobox", name="COCO masks").select_option("RLE")
    page.get_by_role("combobox", name="Scope").select_option("This picture")
    corrections = 0
    figures = {}
    for number, (name, scene) in enumerate(pictures.items(), 1):
        expect(page.get_by_role("application", name=f"Image {name}")).to_be_visible()
        desk.settle()
        # The words of the first picture are found in each.
        expect(desk.chip("circle")).not_to_contain_text("–")
        file = tmp_path / "one.json"
        file.write_bytes(desk.download("COCO"))
        data = COCO(str(file))
        corrections += correct(desk, scene, planes_of(data, data.imgs[1]))
        figures[name] = page.locator("#response").text_content()
        if number == 5:
            # A restart: everything is there again, and nothing is requested.
            before, calls = desk.overlay(), len(desk.calls)
            page.reload()
            expect(page.get_by_role("application", name=f"Image {name}")).to_be_visible()
            desk.settle()
            assert (desk.overlay() == before).all()
            assert len(desk.calls) == calls
        if number < len(pictures):
            desk.press(".")
    assert corrections < 12
    expect(page.get_by_role("button", name="Next picture")).to_be_disabled()

    # The last response is that of the picture shown.
    desk.press(",")
    expect(page.get_by_role("application", name="Image picture-8.png")).to_be_visible()
    desk.settle()
    expect(page.locator("#response")).to_have_text(figures["picture-8.png"] or "")

    page.get_by_role("combobox", name="Scope").select_option("All pictures")
    page.get_by_role("combobox", name="COCO masks").select_option("Polygons")
    file = tmp_path / "all.json"
    file.write_bytes(desk.download("COCO"))
    document = json.loads(file.read_text())
    assert [each["name"] for each in document["categories"]] == list(CLASSES)
    assert [each["file_name"] for each in document["images"]] == list(pictures)
    assert all(isinstance(each["segmentation"], list) for each in document["annotations"])
    data = COCO(str(file))
    by_coco = score({each["file_name"]: planes_of(data, each) for each in data.imgs.values()})
    print(f"{corrections} corrections; COCO: {by_coco}")
    assert by_coco["precision"] == by_coco["recall"] == 1
    assert by_coco["iou"] > 0.85
    for found in (yolo_planes(desk.download("YOLO")), png_planes(desk.download("PNG per mask"))):
        other = score(found)
        assert (other["precision"], other["recall"]) == (1, 1)
        assert abs(other["iou"] - by_coco["iou"]) < 0.03

    # A picture that is closed is forgotten.
    page.get_by_role("button", name="Close picture-8.png").click(force=True)
    expect(page.get_by_role("application", name="Image picture-9.png")).to_be_visible()
    desk.settle()
    page.reload()
    expect(page.locator("#position")).to_have_text("9 of 9")
    desk.settle()


def test_a_dropped_folder(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("b/2.png", "b/10.png", "a.png", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        scene = make_scene(len(name), (64, 48), count=(1, 1))
        (folder / name).write_bytes(Picture(scene).data if name.endswith("png") else b"no image")
    session = desk.page.context.new_cdp_session(desk.page)
    dropped = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 300, "data": dropped})
    pictures = desk.page.get_by_role("list", name="Pictures")
    shots = pictures.get_by_role("button", name="Picture ")
    expect(shots).to_have_count(3)
    expect(shots.first).to_have_accessible_name("Picture data/a.png, 0 masks")
    expect(shots.nth(1)).to_have_accessible_name("Picture data/b/2.png, 0 masks")
    expect(desk.page.get_by_role("application", name="Image data/a.png")).to_be_visible()
    desk.settle()


_BEFORE_IDS = """
() => new Promise((done, fail) => {
  const opening = indexedDB.open("inference-server-playground");
  opening.onerror = fail;
  opening.onsuccess = () => {
    const change = opening.result.transaction(["project", "pictures"], "readwrite");
    change.oncomplete = () => { opening.result.close(); done(); };
    for (const [name, fields] of [["project", "classes"], ["pictures", null]]) {
      const store = change.objectStore(name);
      store.openCursor().onsuccess = ({ target: { result: cursor } }) => {
        if (!cursor) return;
        const value = cursor.value;
        if (fields) {
          const { list, active, merged } = value.classes;
          value.classes = { list, active, merged };
        } else delete value.classIds;
        cursor.update(value);
        cursor.continue();
      };
    }
  };
})
"""
"""Makes the stored project one of the version that did not store which class ids are used."""


def _add_classes(desk: Desk, names: str) -> None:
    desk.page.get_by_role("textbox", name="Add a class").fill(names)
    desk.page.keyboard.press("Enter")
    desk.settle()


def _show(desk: Desk, name: str) -> None:
    desk.page.get_by_role("button", name=f"Picture {name}").click()
    expect(desk.page.get_by_role("application", name=f"Image {name}")).to_be_visible()
    desk.settle()


def _open_two(desk: Desk) -> Scene:
    """Open two pictures, and show the first."""
    found = [make_scene(720 + n, SIZE, count=(2, 3)) for n in range(2)]
    desk.open({f"{n}.png": Picture(scene).data for n, scene in enumerate(found)})
    expect(desk.page.get_by_role("application", name="Image 0.png")).to_be_visible()
    desk.settle()
    return found[0]


@pytest.mark.parametrize("is_earlier", [False, True], ids=["now", "earlier version"])
def test_a_class_of_hidden_masks_stays(desk: Desk, is_earlier: bool) -> None:
    """Also in a project that an earlier version stored."""
    page = desk.page
    item = _open_two(desk).objects[0]
    _add_classes(desk, "bus, car")
    desk.press("2")
    desk.click(*item.click())
    desk.press("h")
    _show(desk, "1.png")
    if is_earlier:
        page.evaluate(_BEFORE_IDS)
        page.reload()
        expect(page.get_by_role("application", name="Image 1.png")).to_be_visible()
        desk.settle()
    classes = page.get_by_role("list", name="Classes")
    row = classes.get_by_role("listitem").nth(1)
    # The number is that of the masks that are shown.
    expect(row.get_by_title("0 masks in 0 pictures")).to_have_text("0")
    expect(page.get_by_role("button", name="Remove class car")).to_be_disabled()
    page.get_by_role("button", name="Remove class bus").click()
    _add_classes(desk, "tree")
    _show(desk, "0.png")
    expect(page.get_by_role("button", name="Object 1 1 click, car")).to_be_visible()
    page.get_by_role("button", name="Remove Object 1").click()
    desk.settle()
    page.get_by_role("button", name="Remove class car").click()
    expect(classes.get_by_role("listitem")).to_have_count(1)


def test_a_removed_class_returns_with_its_masks(desk: Desk) -> None:
    """No other class gets its id, not even after a restart."""
    page = desk.page
    item = _open_two(desk).objects[0]
    _add_classes(desk, "bus, car")
    desk.press("2")
    desk.click(*item.click())
    page.get_by_role("button", name="Remove Object 1").click()
    page.get_by_role("button", name="Remove class car").click()
    desk.settle()
    page.reload()
    expect(page.get_by_role("application", name="Image 0.png")).to_be_visible()
    desk.settle()
    _add_classes(desk, "tree")
    page.get_by_role("button", name="Undo").click()
    desk.settle()
    expect(page.get_by_role("button", name="Object 1 1 click, car")).to_be_visible()
    expect(page.get_by_role("button", name="Remove class car")).to_be_disabled()
    document = json.loads(desk.download("COCO"))
    assert [each["name"] for each in document["categories"]] == ["bus", "tree", "car"]
    assert [each["category_id"] for each in document["annotations"]] == [3]
