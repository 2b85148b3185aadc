"""`inference-server segment`: output formats, folders, errors, progress and resuming."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from pycocotools.coco import COCO

from inference_server.batch.journal import Journal
from inference_server.cli import main
from inference_server.demo.scenes import Scene, make_scene
from tests.api.pictures import Picture, center_box, click, encoded, iou, plane
from tests.api.rasters import PREDICT, answer, geotiff, masks_of_geojson
from tests.api.serving import RunningHere
from tests.readme import ROOT
from tests.waiting import until

Plane = np.ndarray[Any, np.dtype[np.bool_]]
ENOUGH = 0.8


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(
        main, ["segment", *map(str, arguments)], env=environment, catch_exceptions=False
    )


def done(*arguments: object, **environment: str) -> Result:
    result = run(*arguments, **environment)
    assert result.exit_code == 0, result.stderr
    return result


def scene(seed: int) -> Scene:
    """Make a scene; below seed 12 the demo finds every shape of 0, 2, 5, 7 and (barely) 10."""
    return make_scene(seed, (320, 240), count=(3, 4), colors=("red", "blue"))


def write(path: Path, seed: int) -> Scene:
    made = scene(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(made.image, path.suffix))
    return made


def tree(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder, except the journal's, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".segment" not in path.parts
    }


def matched(found: list[Plane], truth: list[Plane], at_least: float = ENOUGH) -> bool:
    return len(found) == len(truth) and all(
        max(iou(mask, other) for other in found) >= at_least for mask in truth
    )


@pytest.fixture(scope="module")
def shot(picture: Picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the picture: two circles and a square in red, and the same in blue."""
    path = tmp_path_factory.mktemp("shot") / "shot.png"
    path.write_bytes(picture.data)
    return path


# Output formats


def test_coco_loads_in_pycocotools(picture: Picture, shot: Path, tmp_path: Path) -> None:
    square = picture.one("blue square")
    result = done(
        *(shot, "-o", tmp_path / "out.json"),
        *("--text", "red circle", "--text", "green star", "--text", "blue circle"),
        *("--box", ",".join(map(str, square.box)), "--category", "thing"),
    )
    assert f"1 image, 5 objects: {tmp_path / 'out.json'}" in result.stderr
    coco = COCO(tmp_path / "out.json")
    named = {each["name"]: each["id"] for each in coco.loadCats(coco.getCatIds())}
    assert list(named) == ["red circle", "green star", "blue circle", "thing"]
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["file_name"], image["height"], image["width"]) == ("shot.png", *picture.size)
    for name, truth in {
        "red circle": picture.matching("red circle"),
        "green star": [],
        "blue circle": picture.matching("blue circle"),
        "thing": [square.mask],
    }.items():
        annotations = coco.loadAnns(coco.getAnnIds(catIds=[named[name]]))
        planes = [coco.annToMask(each).astype(bool) for each in annotations]
        assert matched(planes, truth), name
        for annotation, mask in zip(annotations, planes, strict=True):
            assert annotation["area"] == mask.sum()
            assert cv2.boundingRect(mask.view(np.uint8)) == tuple(annotation["bbox"])
            assert 0.5 < annotation["score"] <= 1
            assert annotation["iscrowd"] == 0
    ids = coco.getAnnIds()
    assert len(set(ids)) == len(ids) == 5
    # The journal stays, so that a later run knows what is done.
    assert sorted(each.name for each in tmp_path.iterdir()) == [".out.json.segment", "out.json"]


def test_coco_of_polygons(picture: Picture, shot: Path, tmp_path: Path) -> None:
    options = ("--text", "circle", "--coco-segmentation", "polygon")
    done(shot, "-o", tmp_path / "out.json", *options)
    coco = COCO(tmp_path / "out.json")
    annotations = coco.loadAnns(coco.getAnnIds())
    assert all(isinstance(each["segmentation"], list) for each in annotations)
    planes = [coco.annToMask(each).astype(bool) for each in annotations]
    assert matched(planes, picture.matching("circle"))


def test_masks_equal_the_servers(
    server: RunningHere, picture: Picture, shot: Path, tmp_path: Path
) -> None:
    item, other = picture.one("red square"), picture.one("blue circle")
    x, y = item.click()
    box = ",".join(map(str, other.box))
    done(
        *(shot, "-o", tmp_path / "out.json", "--format", "rle", "--text", "red circle"),
        *("--text", "shape", "--nms", 0.5, "--box", box, "--point", f"{x},{y}"),
    )
    found = json.loads((tmp_path / "out.json").read_bytes())
    assert found["image"] == {"file_name": "shot.png", "width": 640, "height": 480}
    words = server.answer(
        "/sam3/concept_segment",
        image=picture.sent,
        prompts=[{"text": "red circle"}, {"text": "shape"}],
        format="rle",
        nms_iou_threshold=0.5,
    )["prompt_results"]
    places = server.answer(
        "/sam3/visual_segment",
        image=picture.sent,
        prompts=[{"box": center_box(other)}, click(item)],
        format="rle",
    )["predictions"]
    asked = found["prompt_results"]
    assert [each["echo"] for each in asked[:2]] == [each["echo"] for each in words]
    assert [each["echo"]["num_boxes"] for each in asked[2:]] == [1, 0]
    # --nms applies across all prompts; the texts find the objects of the box and point as well.
    kept = [each for result in asked for each in result["predictions"]]
    told = [*(each for result in words for each in result["predictions"]), *places]
    assert len(picture.scene.objects) == len(kept) < len(told)
    for each in kept:
        same = max(told, key=lambda one: iou(plane(one, picture.size), plane(each, picture.size)))
        assert iou(plane(same, picture.size), plane(each, picture.size)) > 0.99
        assert same["confidence"] == pytest.approx(each["confidence"], abs=0.01)


def test_automatic_masks_as_polygons(picture: Picture, shot: Path, tmp_path: Path) -> None:
    options = ("--automatic", "--points-per-side", 8, "--size", "hiera_tiny")
    done(shot, "-o", tmp_path / "out", "--format", "polygon", *options)
    (result,) = json.loads((tmp_path / "out" / "shot.png.json").read_bytes())["prompt_results"]
    assert result["echo"] == {"prompt_index": 0, "type": "automatic", "num_boxes": 0}
    planes = [plane(each, picture.size) for each in result["predictions"]]
    for item in picture.scene.objects:
        assert max(iou(item.mask, each) for each in planes) > ENOUGH


def test_geojson_equals_samgeos(server: RunningHere, picture: Picture, tmp_path: Path) -> None:
    items = [picture.one("red square"), picture.one("blue square")]
    data = geotiff(picture.scene.image, "EPSG:32633")
    (tmp_path / "place.tif").write_bytes(data)
    boxes = [",".join(map(str, item.box)) for item in items]
    done(
        *(tmp_path / "place.tif", "-o", tmp_path / "place.geojson", "--format", "geojson"),
        *("--box", boxes[0], "--box", boxes[1], "--category", "roof"),
        INFERENCE_VISUAL_MODEL="sam2",
    )
    ours = json.loads((tmp_path / "place.geojson").read_bytes())
    told = answer(
        server, PREDICT, data, model_version="sam2", boxes=[list(item.box) for item in items]
    )
    assert ours["crs"] == told["crs"]
    assert "32633" in ours["crs"]["properties"]["name"]
    assert {each["properties"]["category"] for each in ours["features"]} == {"roof"}
    from tests.api.rasters import PLACES

    transform = PLACES["EPSG:32633"]
    drawn = masks_of_geojson(ours, picture.size, transform)
    for mask, same, item in zip(
        drawn, masks_of_geojson(told, picture.size, transform), items, strict=True
    ):
        assert iou(mask, same) > 0.99
        assert iou(mask, item.mask) > ENOUGH


def test_png_of_object_ids(picture: Picture, shot: Path, tmp_path: Path) -> None:
    done(shot, "-o", tmp_path, "--format", "png", "--text", "shape", "--text", "red circle")
    listed = json.loads((tmp_path / "shot.png.json").read_bytes())
    ids = cv2.imread(str(tmp_path / "shot.png.png"), cv2.IMREAD_UNCHANGED)
    assert ids is not None
    assert ids.dtype == np.uint8
    assert ids.shape == picture.size
    objects = listed["objects"]
    assert [each["id"] for each in objects] == list(range(1, 9))
    assert [each["category"] for each in objects] == ["shape"] * 6 + ["red circle"] * 2
    # Red circles are shapes too; of two overlapping objects the better one is on top.
    assert matched([ids > 0], [np.any([each.mask for each in picture.scene.objects], axis=0)])
    for item in picture.matching("red circle"):
        here = [each for each in objects if (ids[item] == each["id"]).mean() > 0.5]
        over = [each for each in objects if _over(each["bbox"], item)]
        assert len(over) == 2
        assert [each["score"] for each in here] == [max(each["score"] for each in over)]


def _over(bbox: list[int], mask: Plane) -> bool:
    x, y, width, height = bbox
    box = np.zeros_like(mask)
    box[y : y + height, x : x + width] = True
    return iou(box, mask) > 0.5


def test_an_overlay_shows_the_masks(picture: Picture, shot: Path, tmp_path: Path) -> None:
    item = picture.one("red square")
    x, y = item.click()
    done(shot, "-o", tmp_path, "--overlay", "--point", f"{x},{y}")
    drawn = cv2.imread(str(tmp_path / "shot.png.overlay.jpg"))
    assert drawn is not None
    changed = np.abs(drawn[..., ::-1].astype(int) - picture.scene.image).max(axis=2) > 40
    assert changed[item.mask].mean() > 0.9
    assert changed[~item.mask].mean() < 0.05  # the label, and JPEG artefacts at outlines
    assert (tmp_path / "annotations.json").exists()


# Many images


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, dict[str, Scene]]:
    """Three images: two with the same stem, and one in a subfolder."""
    folder = tmp_path / "photos"
    names = {"a.png": 0, "a.jpg": 2, "deep/b.webp": 5}
    return folder, {name: write(folder / name, seed) for name, seed in names.items()}


def masks(file: Path, size: tuple[int, int] = (240, 320)) -> list[Plane]:
    (result,) = json.loads(file.read_bytes())["prompt_results"]
    return [plane(each, size) for each in result["predictions"]]


def test_a_folder(photos: tuple[Path, dict[str, Scene]], tmp_path: Path) -> None:
    folder, scenes = photos
    before = tree(tmp_path)
    # The output goes to the input folder; the next run must not segment the overlays.
    options = (folder, "--recursive", "-o", folder, "--text", "shape", "--overlay")
    result = done(*options, "--format", "rle")
    assert "3 of 3 images" in result.stderr
    for name, made in scenes.items():
        found = masks(folder / f"{name}.json")
        assert matched(found, [each.mask for each in made.objects], 0.7), name
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before
    written = {f"photos/{name}{end}" for name in scenes for end in (".json", ".overlay.jpg")}
    assert after.keys() - before.keys() == written
    again = done(*options, "--format", "rle")
    assert "3 of 3 images are already done" in again.stderr
    assert tree(tmp_path) == after


def test_only_changed_images_are_processed_again(
    photos: tuple[Path, dict[str, Scene]], tmp_path: Path
) -> None:
    folder, _ = photos
    options = (folder, "--recursive", "-o", tmp_path / "out", "--text", "shape", "--overlay")
    done(*options)
    document = tmp_path / "out" / "annotations.json"
    first, known = document.read_bytes(), overlays(tmp_path / "out")
    other = write(folder / "a.jpg", 77)  # another image
    (folder / "a.png").touch()  # the same one, newer
    (tmp_path / "out" / "deep" / "b.webp.overlay.jpg").unlink()
    write(folder / "c.png", 78)
    result = done(*options)
    assert "1 of 4 images are already done" in result.stderr
    now = overlays(tmp_path / "out")
    assert [name for name in known if known[name] == now[name]] == ["a.png.overlay.jpg"]
    assert len(now) == 4
    coco = COCO(document)
    (image,) = (each for each in coco.imgs.values() if each["file_name"] == "a.jpg")
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
    truth = [each.mask for each in other.objects]
    assert matched([coco.annToMask(each).astype(bool) for each in annotations], truth, 0.7)
    assert document.read_bytes() != first


def overlays(folder: Path) -> dict[str, int]:
    """Return the modification time in ns of each overlay, by relative path."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*.overlay.jpg"))
    }


def test_bad_files_are_listed_and_do_not_stop_the_others(
    photos: tuple[Path, dict[str, Scene]], tmp_path: Path
) -> None:
    folder, _ = photos
    whole = (folder / "a.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image")
    (folder / "empty.tif").touch()
    (folder / "folder.jpg").mkdir()  # not even a file
    (folder / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.jpg")
    options = (folder, tmp_path / "gone.jpg", "-o", tmp_path / "out", "--text", "shape")
    result = run(*options, "--format", "rle")
    assert result.exit_code == 1
    *_, told = result.stderr.partition("6 failed; run the same command to retry them:\n")
    lines = [line.strip() for line in told.splitlines()]
    for line, (name, reason) in zip(
        lines,
        (
            (folder / "cut.jpg", "The JPEG file is truncated"),
            (folder / "dangling.jpg", "No such file or directory"),
            (folder / "empty.tif", "The data is empty"),
            (folder / "pipe.jpg", "Not a regular file."),
            (folder / "text.png", "The data is no image"),
            (tmp_path / "gone.jpg", "No such file or directory"),
        ),
        strict=True,
    ):
        assert line.startswith(f"{name}: ")
        assert reason in line
    assert tree(tmp_path / "out").keys() == {"a.png.json", "a.jpg.json"}

    # After the files are repaired, the next run processes only these.
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.json")}
    for bad in ("empty.tif", "pipe.jpg", "dangling.jpg"):
        (folder / bad).unlink()
    made = [write(folder / bad, 8) for bad in ("cut.jpg", "text.png")]
    write(tmp_path / "gone.jpg", 10)
    mended = done(*options, "--format", "rle")
    assert "2 of 5 images are already done" in mended.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())
    truth = [each.mask for each in made[0].objects]
    assert matched(masks(tmp_path / "out" / "cut.jpg.json"), truth, 0.7)


def test_a_damaged_image_loses_its_old_result(
    photos: tuple[Path, dict[str, Scene]], tmp_path: Path
) -> None:
    folder, _ = photos
    options = (folder, "-o", tmp_path / "out", "--text", "shape", "--overlay")
    done(*options)
    (folder / "a.jpg").write_text("no image")
    result = run(*options)
    assert result.exit_code == 1
    assert "1 image, " in result.stderr
    coco = COCO(tmp_path / "out" / "annotations.json")
    assert [each["file_name"] for each in coco.imgs.values()] == ["a.png"]
    assert set(overlays(tmp_path / "out")) == {"a.png.overlay.jpg"}


def test_a_single_file_has_a_journal(photos: tuple[Path, dict[str, Scene]], tmp_path: Path) -> None:
    folder, _ = photos
    (folder / "bad.png").write_text("no image")
    options = (folder, "-o", tmp_path / "all.json", "--text", "shape")
    assert run(*options).exit_code == 1
    assert (tmp_path / ".all.json.segment").is_dir()
    write(folder / "bad.png", 9)
    assert "2 of 3 images are already done" in done(*options).stderr
    assert len(COCO(tmp_path / "all.json").imgs) == 3
    # A document in the input folder is not taken for an image.
    done(tmp_path, "--recursive", "-o", folder / "all.json", *options[3:])
    assert len(COCO(folder / "all.json").imgs) == 4


def test_a_prompt_outside_an_image_fails_that_image_only(
    picture: Picture, shot: Path, photos: tuple[Path, dict[str, Scene]], tmp_path: Path
) -> None:
    folder, _ = photos
    (x, y) = next(
        (x, y) for x, y in (item.click() for item in picture.scene.objects) if x > 320 or y > 240
    )
    result = run(shot, folder / "a.png", "-o", tmp_path / "out", "--point", f"{x},{y}")
    assert result.exit_code == 1
    assert f"{folder / 'a.png'}: The point ({x:g}, {y:g}) lies outside the image" in result.stderr
    assert "320 pixels wide" in result.stderr
    assert "1 image, 1 object" in result.stderr


# Invalid commands and limits


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("PHOTO -o out", "No prompt. Use --text, --label, --example, --box, --point or"),
        ("PHOTO --text star", "Missing option '-o'"),
        ("--text star -o out", "Missing argument"),
        ("PHOTO --text star -o out --format svg", "'svg' is not one of"),
        ("PHOTO --text star -o out.json --format png", "Use a folder: -o out/"),
        ("PHOTO --text star -o out.txt --format rle", "cannot be written to a .txt file"),
        ("PHOTO --text star -o out.json --overlay", "Use a folder: -o out/"),
        ("PHOTO --text star -o PHOTO/", "PHOTO/ is a file, not a folder. Choose another -o."),
        ("PHOTO --text star -o PHOTO/out", "Cannot write"),
        ("PHOTO --text star -o PHOTO/out", "out/.segment: Not a directory"),
        ("PHOTO PHOTO2 --text star -o out.json --format rle", "holds the result of one image"),
        ("PHOTO --box 1,2,3 -o out", "'1,2,3' is not a box. Use [CLASS=]x0,y0,x1,y1 in pixels."),
        ("PHOTO --box 9,9,1,1 -o out", "9,9,1,1 is an empty box"),
        ("PHOTO --point 1 -o out", "'1' is not a point. Use x,y[,0|1]"),
        ("PHOTO --point 1,nan -o out", "'1,nan' is not a point"),
        ("PHOTO --point 1,2,3 -o out", "1,2,3 has an invalid label. Use 1 on the object or 0"),
        ("PHOTO --point 1,2,0 -o out", "A negative --point (x,y,0) is outside every --box"),
        ("PHOTO --text star --threshold 2 -o out", "2 is not between 0 and 1"),
        ("PHOTO --text star --nms nan -o out", "nan is not between 0 and 1"),
        ("PHOTO --automatic --points-per-side 0 -o out", "0 is not in the range 1<=x<=128"),
        ("EMPTY --text star -o out", "No images in EMPTY."),
        ("gone.jpg --text star -o out", "gone.jpg."),
        ("*.gif --text star -o out", "*.gif: No file matches this pattern."),
        ("PHOTO --text  -o out", "--text is empty."),
        ("PHOTO --text star --size huge -o out", "'huge' is not one of"),
    ],
)
def test_an_invalid_command_writes_nothing(
    options: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "PHOTO").write_bytes(b"")
    (tmp_path / "PHOTO2").write_bytes(b"")
    (tmp_path / "EMPTY").mkdir()
    before = listed(tmp_path)
    result = run(*options.split(" "))
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert listed(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"--text": ["star"] * 3},
            "3 --text, --label and --example exceed the limit of 2. Use fewer",
        ),
        ({"--text": ["s" * 9]}, "9 characters in a --text exceed the limit of 8"),
        ({"--point": ["1,2"] * 4}, "4 --point exceed the limit of 3"),
        ({"--box": ["1,2,3,4"] * 2}, "2 --box exceed the limit of 1"),
    ],
)
def test_bounds(options: dict[str, list[str]], told: str, tmp_path: Path) -> None:
    arguments = [
        part for name, values in options.items() for each in values for part in (name, each)
    ]
    result = run(
        *("image.png", "-o", tmp_path / "out", *arguments),
        INFERENCE_MAX_PROMPTS="2",
        INFERENCE_MAX_TEXT_LENGTH="8",
        INFERENCE_MAX_POINTS="3",
        INFERENCE_MAX_VISUAL_PROMPTS="1",
    )
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())


def test_an_image_above_the_pixel_limit_fails(shot: Path, tmp_path: Path) -> None:
    options = (shot, "-o", tmp_path / "out.json", "--text", "star")
    result = run(*options, INFERENCE_MAX_IMAGE_PIXELS="1000")
    assert result.exit_code == 1
    assert "INFERENCE_MAX_IMAGE_PIXELS" in result.stderr


def test_missing_weights_are_an_error(shot: Path, tmp_path: Path) -> None:
    options = (shot, "-o", tmp_path / "out", "--text", "star", "--sam3-weights", "/not/there")
    result = run(*options)
    assert result.exit_code == 1
    assert "INFERENCE_SAM3_WEIGHTS=/not/there" in result.stderr
    assert not (tmp_path / "out").exists()


def test_existing_files_are_not_overwritten(
    photos: tuple[Path, dict[str, Scene]], tmp_path: Path
) -> None:
    folder, _ = photos
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png.json").write_text("mine")
    options = (folder, "-o", out, "--text", "shape", "--format", "rle")
    result = run(*options)
    assert result.exit_code == 2
    assert "a.png.json already exists" in " ".join(result.stderr.split())
    assert tree(out) == {"a.png.json": b"mine"}
    done(*options, "--force")
    assert len(masks(out / "a.png.json")) > 0

    # A different command with the same output is rejected, too.
    before = tree(out)
    result = run(*options[:-1], "polygon")
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert '--format was "rle" and is now "polygon"' in told
    result = run(*options, "--threshold", 0.9)
    assert result.exit_code == 2
    assert "--threshold was null and is now 0.9" in " ".join(result.stderr.split())
    assert tree(out) == before
    done(*options[:-1], "polygon", "--restart")
    assert b'"polygon"' in (out / "a.png.json").read_bytes()

    # The same command with more images is accepted.
    write(tmp_path / "other" / "a.png", 4)
    done(tmp_path / "other", *options[1:-1], "polygon")
    assert tree(out).keys() == {"a.jpg.json", "a.png.json", "other/a.png.json"}


def test_a_document_with_other_images_is_not_overwritten(
    photos: tuple[Path, dict[str, Scene]], tmp_path: Path
) -> None:
    folder, _ = photos
    options = ("-o", tmp_path / "out", "--text", "shape")
    done(folder / "a.png", *options)
    result = run(folder / "a.jpg", *options)
    assert result.exit_code == 2
    assert "contains 1 other images, such as" in " ".join(result.stderr.split())
    done(folder / "a.jpg", folder / "a.png", *options)
    (folder / "a.png").unlink()  # a deleted image need not be in the command
    done(folder / "a.jpg", *options)
    coco = COCO(tmp_path / "out" / "annotations.json")
    assert [each["file_name"] for each in coco.imgs.values()] == ["a.jpg"]


def test_a_full_disk_stops_the_run(
    photos: tuple[Path, dict[str, Scene]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = photos
    options = (folder, "--recursive", "-o", tmp_path / "out", "--text", "shape", "--format", "rle")
    write_whole = Path.replace
    written: list[object] = []

    def replace(self: Path, target: Path) -> Path:
        if len(written) == 1:
            raise OSError(28, "No space left on device")
        written.append(target)
        return write_whole(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        result = run(*options, "--workers", 1)
    assert result.exit_code == 1
    assert ".json: No space left on device" in result.stderr
    assert "1 of 3 images are done. Run the same command to resume." in result.stderr
    assert len(tree(tmp_path / "out")) == 1
    assert "1 of 3 images are already done" in done(*options).stderr


# Progress


def test_a_bar_on_a_terminal(photos: tuple[Path, dict[str, Scene]], tmp_path: Path) -> None:
    folder, _ = photos
    (folder / "bad.png").touch()
    options = (folder, "-o", tmp_path / "out", "--text", "shape")
    result = run(*options, FORCE_COLOR="1", COLUMNS="100")
    assert result.exit_code == 1
    assert "Segmenting" in result.stderr
    assert "3/3" in result.stderr
    assert "1 failed" in result.stderr


def test_quiet_reports_failures_only(photos: tuple[Path, dict[str, Scene]], tmp_path: Path) -> None:
    folder, _ = photos
    result = done(folder, "-o", tmp_path / "out", "--text", "shape", "--quiet")
    assert result.output == ""
    (folder / "bad.png").touch()
    result = run(folder, "-o", tmp_path / "out", "--text", "shape", "--quiet")
    assert result.exit_code == 1
    assert [line.split(":")[0].strip() for line in result.stderr.splitlines()] == [
        "1 failed; run the same command to retry them",
        str(folder / "bad.png"),
    ]


# Killed and interrupted runs


_A_FEW = """
import asyncio
from inference_server.batch.runner import Batch
from inference_server.cli import main

begun, one = [], Batch._one

async def one_of_a_few(self, segmenter, source, *rest):
    begun.append(source)
    if len(begun) > 12:
        await asyncio.Event().wait()
    return await one(self, segmenter, source, *rest)

Batch._one = one_of_a_few
main()
"""
"""Starts at most twelve images, so that the command is still running when a signal is sent."""


class Started:
    """A command in a new process."""

    def __init__(self, *arguments: object) -> None:
        # As many threads as in the run to compare with, because sums depend on their order.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _A_FEW, "segment", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | THREADS,
            stderr=subprocess.PIPE,
            text=True,
            # In a background job of a shell, SIGINT is ignored and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def stopped(self, by: signal.Signals, when: Callable[[], bool]) -> tuple[int, str]:
        """Send a signal once a condition holds; return the exit status and standard error."""

        def ready() -> bool:
            assert self._process.poll() is None, self._process.communicate()[1]
            return when()

        until(ready, 240, 0.005)
        self._process.send_signal(by)
        said = self._process.communicate(timeout=240)[1]
        return self._process.returncode, said


THREADS = {"INFERENCE_THREADS": "1"}

MANY = 30
"""More than two runs of `_A_FEW` process."""


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Path]:
    """More images than are processed before a signal is sent."""
    folder = tmp_path / "many"
    for seed in range(MANY):
        write(folder / f"{seed:02}.png", seed)
    yield folder
    shutil.rmtree(folder)


def test_a_killed_run_resumes(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = (many, "--text", "shape", "--text", "red circle", "--overlay")
    arguments = (*options, "-o", out, "--workers", 3)

    status, _ = Started(*arguments).stopped(
        signal.SIGKILL, lambda: len(overlays(out)) >= 4 if out.exists() else False
    )
    assert status == -signal.SIGKILL
    first = overlays(out)
    assert len(first) < MANY
    assert not (out / "annotations.json").exists()
    journal = Journal(out / ".segment")
    kept = {f"{name}.overlay.jpg" for name in journal.names(done=True).values()}
    journal.close()
    assert kept <= first.keys()
    assert len(first.keys() - kept) <= 3, "at most the three images in progress"

    def further() -> bool:
        """Four more images are done, as are those that the first run had not recorded."""
        now = overlays(out)
        return len(now) >= len(first) + 4 and all(now[n] != first[n] for n in first.keys() - kept)

    status, said = Started(*arguments).stopped(signal.SIGINT, further)
    second = overlays(out)
    assert status == 130, said
    assert "images are done. Run the same command to resume." in said
    assert "Traceback" not in said
    # Images in the journal of the killed run are not processed again.
    begun = int(said.split("Resuming: ")[1].split(f" of {MANY} images are already done")[0])
    assert begun == len(kept)
    assert {name for name in first if first[name] == second[name]} == kept
    assert len(second) < MANY

    result = done(*arguments, **THREADS)
    assert f"{MANY} of {MANY} images" in result.stderr
    third = overlays(out)
    assert sum(second[name] == third[name] for name in second) >= len(second) - 3
    assert len(third) == MANY

    done(*options, "-o", tmp_path / "whole", **THREADS)
    assert tree(out) == tree(tmp_path / "whole")
    assert len(COCO(out / "annotations.json").imgs) == MANY


def test_help_needs_neither_torch_nor_opencv() -> None:
    code = (
        "import sys\nfrom inference_server.cli import main\n"
        "try: main(['segment', '--help'])\n"
        "finally: sys.exit(3 if {'torch', 'cv2', 'numpy'} & set(sys.modules) else 0)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert "--text" in shown.stdout
