"""`inference-server segment` on rasters by windows: formats, bands, coordinates, prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from pycocotools.coco import COCO
from rasterio.warp import transform

from inference_server.demo.scenes import SceneObject, make_scene
from inference_server.errors import ImageError
from inference_server.masks import Mask
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.tiling.seams import SeamMerger
from inference_server.segmentation.types import Instance, SegmentationResult
from tests.api.pictures import encoded, iou
from tests.api.rasters import PLACES, geotiff
from tests.cli.test_segment import done, run

Plane = NDArray[np.bool_]
SEEDS = ((0, 1, 2), (3, 4, 5))
SIZE = (480, 960)
WINDOWS = 18
BY_WINDOWS = ("--tile-size", 256, "--tile-overlap", 96)
COLOURS = ("--text", "red", "--text", "blue")
ENOUGH = 0.8


@pytest.fixture(scope="module")
def world() -> tuple[NDArray[np.uint8], list[tuple[SceneObject, Plane]]]:
    """Six scenes side by side, whose shapes lie on the seams of windows, and their shapes."""
    rows, objects = [], []
    for j, seeds in enumerate(SEEDS):
        scenes = [make_scene(s, (320, 240), count=(3, 4), colors=("red", "blue")) for s in seeds]
        rows.append(np.hstack([scene.image for scene in scenes]))
        for i, scene in enumerate(scenes):
            for each in scene.objects:
                plane: Plane = np.zeros(SIZE, np.bool_)
                plane[j * 240 : (j + 1) * 240, i * 320 : (i + 1) * 320] = each.mask
                objects.append((each, plane))
    return np.vstack(rows), objects


@pytest.fixture(scope="module")
def ortho(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ortho") / "ortho.tif"
    path.write_bytes(geotiff(world[0], "EPSG:32633", tiled=True, blockxsize=128, blockysize=128))
    return path


def assert_found(world: Any, found: Sequence[Plane]) -> None:
    """Each shape is one object: none is missing, counted twice or split."""
    truth = [plane for _, plane in world[1]]
    assert len(found) == len(truth)
    best = sorted(max(iou(plane, each) for each in found) for plane in truth)
    assert best[0] > ENOUGH, best


class TestFormats:
    def test_coco(self, world: Any, ortho: Path, tmp_path: Path) -> None:
        result = done(ortho, "-o", tmp_path / "out.json", *COLOURS, *BY_WINDOWS)
        assert f"ortho.tif: {WINDOWS} of {WINDOWS} windows" in result.stderr
        assert "1 image, 20 objects" in result.stderr
        coco = COCO(tmp_path / "out.json")
        (image,) = coco.loadImgs(coco.getImgIds())
        assert (image["file_name"], image["height"], image["width"]) == ("ortho.tif", *SIZE)
        annotations = coco.loadAnns(coco.getAnnIds())
        assert_found(world, [coco.annToMask(each).astype(bool) for each in annotations])
        names = {each["id"]: each["name"] for each in coco.loadCats(coco.getCatIds())}
        assert {names[each["category_id"]] for each in annotations} == {"red", "blue"}
        assert not list((tmp_path / ".out.json.segment").rglob("*.windows"))

    def test_the_others_have_the_same_objects(
        self, world: Any, ortho: Path, tmp_path: Path
    ) -> None:
        for form in ("geojson", "geotiff", "png", "rle", "yolo"):
            out = tmp_path / form
            done(ortho, "-o", f"{out}/", *COLOURS, *BY_WINDOWS, "--format", form)
        features = json.loads((tmp_path / "geojson/ortho.tif.geojson").read_bytes())
        assert features["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
        numbers = {each["properties"]["value"] for each in features["features"]}
        assert numbers == set(range(1, 21))
        with rasterio.open(tmp_path / "geotiff/ortho.tif.ids.tif") as file:
            assert file.crs.to_epsg() == 32633
            assert file.transform == PLACES["EPSG:32633"]
            ids = file.read(1)
        assert_found(world, [ids == number for number in range(1, 21)])
        described = json.loads((tmp_path / "geotiff/ortho.tif.json").read_bytes())
        assert [each["id"] for each in described["objects"]] == list(range(1, 21))
        with rasterio.open(tmp_path / "png/ortho.tif.png") as file:
            assert np.array_equal(file.read(1), ids)
        response = json.loads((tmp_path / "rle/ortho.tif.json").read_bytes())
        outputs = {
            each["echo"]["text"]: len(each["predictions"]) for each in response["prompt_results"]
        }
        assert sum(outputs.values()) == 20
        assert list(outputs) == ["red", "blue"]
        lines = (tmp_path / "yolo/labels/ortho.txt").read_text().splitlines()
        assert len(lines) >= 20

    def test_coordinates_of_another_crs(self, ortho: Path, tmp_path: Path) -> None:
        options = (*COLOURS, *BY_WINDOWS, "--format", "geojson", "--geojson-crs", "4326")
        done(ortho, "-o", tmp_path / "out.geojson", *options)
        features = json.loads((tmp_path / "out.geojson").read_bytes())["features"]
        (x,), (y,) = transform("EPSG:32633", "EPSG:4326", [390_000], [5_820_000])
        for each in features:
            rings = np.array(each["geometry"]["coordinates"][0])
            assert np.abs(rings - (x, y)).max() < 0.02


def test_windows_of_another_command_are_not_thrown_away(ortho: Path, tmp_path: Path) -> None:
    """Hours of work may be in them, also if no image is finished."""
    out = tmp_path / "out.json"
    command = (ortho, "-o", out, "--text", "red", *BY_WINDOWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SeamMerger, "finish", Mock(side_effect=ImageError("interrupted")))
        assert run(*command).exit_code == 1
    [windows] = (tmp_path / ".out.json.segment").rglob("*.windows")
    before = windows.read_bytes()
    other = run(*command, "--threshold", "0.6")
    assert other.exit_code == 2
    assert "different command: --threshold" in " ".join(other.stderr.split())
    assert windows.read_bytes() == before
    assert f"{WINDOWS} of {WINDOWS}" in done(*command, "--threshold", "0.6", "--force").stderr


class TestAutomatic:
    """Which images are segmented by windows."""

    def test_an_image_that_is_too_large_as_a_whole(self, ortho: Path, tmp_path: Path) -> None:
        limit = {"INFERENCE_MAX_IMAGE_PIXELS": "200000"}
        result = done(ortho, "-o", tmp_path / "a.json", "--text", "red", **limit)
        assert "windows" in result.stderr
        result = run(ortho, "-o", tmp_path / "b.json", "--text", "red", "--tiles", "never", **limit)
        assert result.exit_code == 1
        assert "INFERENCE_MAX_IMAGE_PIXELS" in result.stderr

    def test_a_small_one_is_not(self, ortho: Path, tmp_path: Path) -> None:
        assert "windows" not in done(ortho, "-o", tmp_path / "a.json", "--text", "red").stderr
        larger = done(ortho, "-o", tmp_path / "b.json", "--text", "red", "--tile-size", 1000)
        assert "windows" not in larger.stderr

    def test_only_tiff_files_are(self, world: Any, tmp_path: Path) -> None:
        path = tmp_path / "shot.png"
        path.write_bytes(encoded(world[0], ".png"))
        result = run(path, "-o", tmp_path / "a.json", "--text", "red", "--tiles", "always")
        assert result.exit_code == 1
        assert "Only TIFF files are read by windows" in result.stderr

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (("--tile-size", 3), "INFERENCE_MIN_TILE_SIZE"),
            (("--tile-size", 256, "--tile-overlap", 128), "less than half"),
            (("--tile-overlap", -1), "0 or more"),
            (("--bands", "3,2"), "three numbers"),
            (("--geojson-crs", "4326"), "--format geojson"),
        ],
    )
    def test_options_out_of_range(
        self, ortho: Path, tmp_path: Path, options: Any, told: str
    ) -> None:
        result = run(ortho, "-o", tmp_path / "a.json", "--text", "red", *options)
        assert result.exit_code == 2
        assert told in " ".join(result.stderr.split())

    def test_overlays_are_refused(self, ortho: Path, tmp_path: Path) -> None:
        options = ("--text", "red", "--overlay", "--tiles", "always")
        result = run(ortho, "-o", f"{tmp_path}/out/", *options)
        assert result.exit_code == 1
        assert "Run without --overlay" in result.stderr


def test_bands_choose_the_colours(world: Any, tmp_path: Path) -> None:
    """A file whose first band is blue, whole and by windows."""
    for name, how, part in (
        ("whole", (), np.s_[:240, :320]),  # the first scene, as the demo knows no smaller shapes
        ("windows", BY_WINDOWS, np.s_[:, :]),
    ):
        path, out = tmp_path / f"{name}.tif", tmp_path / f"{name}.json"
        path.write_bytes(geotiff(np.ascontiguousarray(world[0][part][..., ::-1]), "EPSG:32633"))
        reds = [plane[part] for each, plane in world[1] if each.color == "red"]
        reds = [plane for plane in reds if plane.any()]
        done(path, "-o", out, "--text", "red", "--bands", "3,2,1", *how)
        coco = COCO(out)
        found = [coco.annToMask(each) for each in coco.loadAnns(coco.getAnnIds())]
        right = sum(max(iou(plane, mask > 0) for mask in found) > ENOUGH for plane in reds)
        assert right >= len(reds) / 2, name


def test_points_and_boxes_have_windows_around_them(world: Any, ortho: Path, tmp_path: Path) -> None:
    near = [world[1][0], world[1][1]]
    each, plane = world[1][-1]
    options: list[object] = []
    for _, mask in [*near, (each, plane)]:
        ys, xs = np.nonzero(mask)
        options += ["--box", f"{xs.min()},{ys.min()},{xs.max() + 1},{ys.max() + 1}"]
    done(ortho, "-o", tmp_path / "out.json", *options, "--tiles", "always", "--tile-size", 256)
    coco = COCO(tmp_path / "out.json")
    found = [coco.annToMask(each).astype(bool) for each in coco.loadAnns(coco.getAnnIds())]
    assert len(found) == 3
    for _, mask in [*near, (each, plane)]:
        assert max(iou(mask, other) for other in found) > ENOUGH


def test_exemplars_are_used_in_all_windows(world: Any, ortho: Path, tmp_path: Path) -> None:
    ys, xs = np.nonzero(world[1][0][1])
    box = f"thing={xs.min()},{ys.min()},{xs.max() + 1},{ys.max() + 1}"
    done(ortho, "-o", tmp_path / "out.json", "--example", box, *BY_WINDOWS, "--threshold", 0.1)
    coco = COCO(tmp_path / "out.json")
    found = [coco.annToMask(each).astype(bool) for each in coco.loadAnns(coco.getAnnIds())]
    assert max(iou(world[1][0][1], mask) for mask in found) > ENOUGH
    assert max(int(np.nonzero(mask)[1].max()) for mask in found) > 400  # in other windows, too


@pytest.mark.parametrize("words", [(), ("--text", "red")])
def test_automatic_masks_of_a_whole_and_its_parts_stay(
    ortho: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """As in an image that is encoded as a whole, and with words in the same run."""
    planes = [np.zeros((256, 256), np.bool_) for _ in range(2)]
    planes[0][20:120, 20:120] = planes[1][20:120, 20:85] = True
    automatic = LocalSegmentationService.automatic

    async def answered(*arguments: Any, **options: Any) -> SegmentationResult:
        result = await automatic(*arguments, **options)
        masks = [Instance(i, 0.9, Mask.from_plane(plane)) for i, plane in enumerate(planes)]
        return replace(result, instances=masks)

    monkeypatch.setattr(LocalSegmentationService, "automatic", answered)
    options = ("--automatic", "--points-per-side", 1, "--category", "thing", *words, *BY_WINDOWS)
    done(ortho, "-o", tmp_path / "out.json", *options)
    coco = COCO(tmp_path / "out.json")
    (thing,) = coco.getCatIds(catNms=["thing"])
    found = [
        coco.annToMask(each).astype(bool)[:256, :256]
        for each in coco.loadAnns(coco.getAnnIds(catIds=[thing]))
    ]
    for plane in planes:
        assert max(iou(plane, each) for each in found) == 1
