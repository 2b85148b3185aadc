"""`inference-server segment`: classes, examples, simplified outlines, YOLO, merged documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO

from inference_server.batch.formats import yolo_document
from inference_server.cli.console import to_stdout
from inference_server.cli.segment import segment
from tests.api.pictures import Picture, iou
from tests.cli.test_segment import done, matched, run


@pytest.fixture
def shot(picture: Picture, tmp_path: Path) -> Path:
    """A file of the picture: two circles and a square in red, and the same in blue."""
    path = tmp_path / "shot.png"
    path.write_bytes(picture.data)
    return path


def corners(item: Any) -> str:
    return ",".join(map(str, item.box))


def found(document: Path, category: str) -> list[Any]:
    """The masks of a category in a COCO document."""
    coco = COCO(document)
    (number,) = coco.getCatIds(catNms=[category])
    annotations = coco.loadAnns(coco.getAnnIds(catIds=[number]))
    return [coco.annToMask(each).astype(bool) for each in annotations]


def names(document: Path) -> list[str]:
    return [each["name"] for each in json.loads(document.read_bytes())["categories"]]


def test_words_boxes_and_examples_have_classes(
    picture: Picture, shot: Path, tmp_path: Path
) -> None:
    square = picture.one("blue square")
    example = picture.one("blue circle")
    out = tmp_path / "out.json"
    done(
        *(shot, "-o", out, "--text", "green star"),
        *("--label", "red thing=red circle, red square"),
        *("--box", f"box={corners(square)}", "--box", corners(picture.one("red square"))),
        *("--example", f"round={corners(example)}"),
    )
    assert names(out) == ["green star", "red thing", "round", "box", "object"]
    red = [*picture.matching("red circle"), *picture.matching("red square")]
    assert matched(found(out, "red thing"), red, 0.75)
    assert matched(found(out, "box"), [square.mask])
    assert matched(found(out, "object"), picture.matching("red square"))
    assert matched(found(out, "round"), picture.matching("blue circle"), 0.75)


def test_examples_of_a_class_are_one_prompt(picture: Picture, shot: Path, tmp_path: Path) -> None:
    circle, square = picture.one("red circle"), picture.one("red square")
    options = ("--example", corners(circle), "--example", f"{corners(square)},0")
    done(shot, "-o", tmp_path / "out.json", "--format", "rle", "--threshold", 0.3, *options)
    (result,) = json.loads((tmp_path / "out.json").read_bytes())["prompt_results"]
    assert result["echo"] == {"prompt_index": 0, "type": "visual", "num_boxes": 2}


@pytest.mark.parametrize("form", ["coco", "polygon", "geojson"])
def test_simplified(form: str, shot: Path, tmp_path: Path) -> None:
    sizes = []
    for pixels in ("0", "3"):
        target = tmp_path / f"out{pixels}.{'geojson' if form == 'geojson' else 'json'}"
        options = ("--text", "circle", "--coco-segmentation", "polygon", "--format", form)
        done(shot, "-o", target, *options, *(("--simplify", pixels) if pixels != "0" else ()))
        sizes.append(len(target.read_bytes()))
    assert sizes[1] < sizes[0] / 3
    again = run(
        *(shot, "-o", target, *options, "--simplify", "2"),
    )
    assert again.exit_code == 2
    assert "--simplify was 3.0 and is now 2.0" in " ".join(again.stderr.split())


@pytest.mark.parametrize("pixels", ["0", "1.5"])
def test_yolo(picture: Picture, shot: Path, tmp_path: Path, pixels: str) -> None:
    empty = tmp_path / "empty.png"
    cv2.imwrite(str(empty), np.full((80, 90, 3), 128, np.uint8))
    out = tmp_path / "dataset"
    labels = ("--label", "round=circle", "--label", "blue square=blue square")
    options = (*labels, "--format", "yolo")
    done(shot, empty, "-o", out, *options, "--simplify", pixels)
    files = sorted(str(each.relative_to(out)) for each in out.rglob("*") if each.is_file())
    assert [each for each in files if ".segment" not in each] == [
        "data.yaml",
        "labels/empty.txt",
        "labels/shot.txt",
    ]
    assert (out / "data.yaml").read_text().endswith('names:\n  0: "round"\n  1: "blue square"\n')
    assert (out / "labels" / "empty.txt").read_text() == ""
    height, width = picture.size
    planes: dict[int, list[Any]] = {0: [], 1: []}
    for line in (out / "labels" / "shot.txt").read_text().splitlines():
        number, *shares = line.split(" ")
        points = np.array(shares, float).reshape(-1, 2)
        assert points.min() >= 0
        assert points.max() <= 1
        plane = np.zeros((height, width), np.uint8)
        cv2.fillPoly(plane, [np.round(points * (width, height) - 0.5).astype(np.int32)], [1])
        if plane.sum() > 100:
            planes[int(number)].append(plane.astype(bool))
    circles = [*picture.matching("red circle"), *picture.matching("blue circle")]
    assert matched(planes[0], circles, 0.75)
    assert matched(planes[1], picture.matching("blue square"), 0.75)


def test_yolo_labels_of_equal_names(shot: Path, tmp_path: Path) -> None:
    other = tmp_path / "shot.jpg"
    other.write_bytes(shot.read_bytes())
    result = run(shot, other, "-o", tmp_path / "out", "--text", "circle", "--format", "yolo")
    assert result.exit_code == 2
    assert "would share" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["coco", "rle", "geojson"])
def test_standard_output(form: str, shot: Path, tmp_path: Path) -> None:
    options = (shot, "--text", "red circle", "--format", form)
    target = tmp_path / f"out.{'geojson' if form == 'geojson' else 'json'}"
    done(*options, "-o", target)
    result = done(*options, "-o", "-")
    assert json.loads(result.stdout) == json.loads(target.read_bytes())
    assert "standard output" in result.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("- --text x -o out", "Images are not read from standard input."),
        ("https://example.com/a.jpg --text x -o out", "is a URL; this command reads files only."),
        ("PHOTO -o out --label car", "'car' is not a class with its words. Use CLASS=WORDS"),
        ("PHOTO -o out --label car=a,", "is not a class with its words"),
        ("PHOTO -o out --example 1,2,3,4,0", "are counter-examples"),
        ("PHOTO -o out --example 1,2,3,4,7", "has an invalid label. Use 1 for an exemplar"),
        ("PHOTO -o out --box =1,2,3,4", "is not a box. Use [CLASS=]x0,y0,x1,y1 in pixels."),
        ("PHOTO -o out --point a=1,2", "is not a point. Use x,y[,0|1] in pixels."),
        ("PHOTO -o out --text x --simplify 1", "--simplify needs polygons."),
        ("PHOTO -o out --text x --format rle --simplify 1", "--simplify needs polygons."),
        ("PHOTO -o out --text x --format yolo --simplify -1", "not in the range"),
        ("PHOTO -o - --text x --format png", "--format png cannot be written to standard output"),
        ("PHOTO -o - --text x --overlay", "--overlay cannot be written to standard output"),
        ("PHOTO -o out.txt --text x --format yolo", "cannot be written to a .txt file"),
        ("PHOTO -o out --text x --format rle --merge", "--merge adds to a COCO document."),
    ],
)
def test_invalid_options_write_nothing(
    options: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "PHOTO").write_bytes(b"")
    result = run(*options.split(" "))
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert [each.name for each in tmp_path.iterdir()] == ["PHOTO"]


@pytest.mark.parametrize("target", ["out.json", "out/"])
def test_a_later_class_is_merged(picture: Picture, shot: Path, tmp_path: Path, target: str) -> None:
    output = f"{tmp_path}/{target}"
    document = tmp_path / ("out/annotations.json" if target.endswith("/") else target)
    first = (shot, "-o", output, "--text", "red circle")
    later = (shot, "-o", output, "--text", "blue square", "--merge")
    done(*first)
    assert "different command" in run(*later[:-1]).stderr.replace("\n", " ")
    for _ in range(2):  # the second time nothing is left to do
        done(*later)
        assert names(document) == ["red circle", "blue square"]
        assert matched(found(document, "red circle"), picture.matching("red circle"))
        assert matched(found(document, "blue square"), picture.matching("blue square"))
        (image,) = json.loads(document.read_bytes())["images"]
        assert image["file_name"] == "shot.png"
    done(shot, "-o", output, "--text", "blue circle", "--merge")
    assert names(document) == ["red circle", "blue square", "blue circle"]
    again = run(*first[:-1], "red circle", "--nms", "0.5", "--merge")
    assert again.exit_code == 2
    assert "already has the class 'red circle'" in " ".join(again.stderr.split())
    assert len(names(document)) == 3
    done(*first, "--force")
    assert names(document) == ["red circle"]


def test_other_images_are_merged(picture: Picture, shot: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(picture.data)
    out = tmp_path / "out.json"
    done(shot, "-o", out, "--text", "red circle")
    done(other, "-o", out, "--text", "blue square", "--merge")
    content = json.loads(out.read_bytes())
    assert [each["file_name"] for each in content["images"]] == ["shot.png", "other.png"]
    assert [(a["image_id"], a["category_id"]) for a in content["annotations"]] == [
        (1, 1),
        (1, 1),
        (2, 2),
    ]
    assert len({each["id"] for each in content["annotations"]}) == 3


def test_what_is_no_coco_document_is_not_merged(shot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text('{"images": 1}')
    result = run(shot, "-o", out, "--text", "red circle", "--merge")
    assert result.exit_code == 2
    assert "is not a COCO document" in " ".join(result.stderr.split())
    assert out.read_text() == '{"images": 1}'


@pytest.mark.parametrize("target", ["out.json", "out/"])
def test_a_finished_run_is_known(shot: Path, tmp_path: Path, target: str) -> None:
    """The same command has nothing left to do, for a file as for a folder."""
    options = (shot, "-o", f"{tmp_path}/{target}", "--text", "red circle")
    done(*options)
    assert "Resuming: 1 of 1 images are already done." in done(*options).stderr
    result = run(*options[:-1], "blue circle")
    assert result.exit_code == 2
    assert "results of a different command" in " ".join(result.stderr.split())


@pytest.mark.parametrize("target", ["new/out.json", "new/", "new"])
def test_a_run_without_results_leaves_nothing(tmp_path: Path, target: str) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    assert run(bad, "-o", f"{tmp_path}/{target}", "--text", "red circle").exit_code == 1
    assert [each.name for each in tmp_path.iterdir()] == ["bad.png"]


def test_no_empty_folder_is_left(shot: Path, tmp_path: Path) -> None:
    done(shot, "-o", tmp_path / "out", "--text", "red circle", "--format", "rle")
    folders = [each for each in (tmp_path / "out").rglob("*") if each.is_dir()]
    assert all(any(each.iterdir()) for each in folders)


def test_merged_masks_are_those_of_one_command(
    picture: Picture, shot: Path, tmp_path: Path
) -> None:
    both, merged = tmp_path / "both.json", tmp_path / "merged.json"
    done(shot, "-o", both, "--text", "red circle", "--text", "blue square")
    done(shot, "-o", merged, "--text", "red circle")
    done(shot, "-o", merged, "--text", "blue square", "--merge")
    one, other = (json.loads(each.read_bytes()) for each in (both, merged))
    assert one["annotations"] == other["annotations"]
    assert iou(picture.one("blue square").mask, found(merged, "blue square")[0]) > 0.75


def coco(**changed: Any) -> dict[str, Any]:
    """A COCO document of one object, with some of its lists replaced."""
    return {
        "images": [{"id": 3, "file_name": "shot.png"}],
        "categories": [{"id": 7, "name": "thing"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 7, "segmentation": []}],
        **changed,
    }


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (coco(categories=[{"id": 7}]), "categories[0].name is missing"),
        (coco(categories=[{"id": 7, "name": 5}]), "categories[0].name is not a string: 5"),
        (coco(categories=["thing"]), 'categories[0] is not an object: "thing"'),
        (coco(categories=[{"id": [7], "name": "x"}]), "categories[0].id is not an integer: [7]"),
        (coco(annotations=[5]), "annotations[0] is not an object: 5"),
        (
            coco(annotations=[{"image_id": 3, "category_id": 77}]),
            "annotations[0].category_id is in none of the categories: 77",
        ),
        (
            coco(annotations=[{"image_id": 4, "category_id": 7}]),
            "annotations[0].image_id is in none of the images: 4",
        ),
        (coco(images=[{"id": 3}]), "images[0].file_name is missing"),
        (
            coco(categories=[{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]),
            "categories[1].id is the id of an earlier entry too: 7",
        ),
    ],
)
def test_a_bad_document_is_not_merged(
    bad: dict[str, Any], told: str, shot: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    out.write_text(json.dumps(bad))
    result = run(shot, "-o", out, "--text", "red circle", "--merge")
    assert result.exit_code == 2
    assert f"{out}: {told}. Repair this entry" in " ".join(result.stderr.split())
    assert json.loads(out.read_bytes()) == bad


def test_a_repaired_document_is_merged(shot: Path, tmp_path: Path) -> None:
    """Also if an earlier version kept the bad document to merge with."""
    out = tmp_path / "out.json"
    command = (shot, "-o", out, "--text", "red circle", "--merge")
    out.write_text(json.dumps(coco()))
    done(*command)
    bad = json.dumps(coco(categories=[{"id": 7}]))
    (tmp_path / ".out.json.segment" / "base.json").write_text(bad)
    out.write_text(bad)
    assert run(*command).exit_code == 2
    out.write_text(json.dumps(coco()))
    done(*command)
    assert names(out) == ["thing", "red circle"]
    assert len(json.loads(out.read_bytes())["annotations"]) == 3


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--text", "\udcff"),
        ("--label", "\udcff=red circle"),
        ("--box", "\udcff=1,2,3,4"),
        ("--category", "\udcff"),
    ],
)
def test_words_that_are_not_utf8_are_refused(
    option: str, value: str, shot: Path, tmp_path: Path
) -> None:
    result = run(shot, "-o", tmp_path / "out.json", "--point", "9,9", option, value)
    assert result.exit_code == 2
    assert "is not valid UTF-8" in " ".join(result.stderr.split())
    assert not (tmp_path / "out.json").exists()


def test_a_simplification_is_a_number(shot: Path, tmp_path: Path) -> None:
    result = run(shot, "-o", tmp_path / "out", "--text", "x", "--format", "yolo", "--simplify=nan")
    assert result.exit_code == 2
    assert "nan is not a number of pixels" in " ".join(result.stderr.split())


def test_yaml_of_any_class() -> None:
    classes = ["a\x7fb", "c\x85d", "e\u2028f", "g\ufffeh", "tab\t", 'quote"\\', "ä 😀"]
    document = b"".join(yolo_document(classes)).decode()
    assert yaml.safe_load(document)["names"] == dict(enumerate(classes))


def test_two_images_on_standard_output(shot: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(shot.read_bytes())
    result = run(shot, other, "-o", "-", "--text", "x", "--format", "rle")
    assert result.exit_code == 2
    assert "Error: - holds the result of one image" in " ".join(result.stderr.split())


def test_standard_output_that_cannot_be_written(
    shot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(shot), "--text", "x", "-o", "-"]
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(click.ClickException, match="Standard output is closed"):
        segment.main(arguments, standalone_mode=False)
    file = tmp_path / "out.json"
    file.write_text("{}")
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closed by the command
    monkeypatch.setattr("sys.stdout", full)
    with pytest.raises(click.ClickException, match="standard output: No space left") as raised:
        to_stdout(file)
    assert raised.value.exit_code == 1
    assert full.closed
