"""Polygons and masks of the page, compared with pycocotools; in Node, without a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from inference_server.playground import assets
from tests.api.pictures import Plane, iou

STATIC = Path(assets.__file__).with_name("static")

PAGE = "globalThis.document={createElement:()=>({getContext:()=>({})})}"
"""As much of a page as modules that draw need to be imported."""


@pytest.fixture(autouse=True)
def _node() -> None:
    assert shutil.which("node"), "Node is missing"


def node(module: str, program: str, value: Any = None) -> Any:
    """Run a program with a module as `it` and a value as `value`; return its `result`."""
    code = (
        f"import {json.dumps(f'data:text/javascript,{PAGE}')};"
        f"import * as it from {json.dumps((STATIC / module).as_uri())};"
        f"import {{ Mask }} from {json.dumps((STATIC / 'masks.js').as_uri())};"
        'import { readFileSync } from "node:fs";'
        'const value = JSON.parse(readFileSync(0, "utf8"));'
        f"{program}; console.log(JSON.stringify(result));"
    )
    command = ["node", "--input-type=module", "-e", code]
    return json.loads(subprocess.check_output(command, input=json.dumps(value), text=True))


def rle(plane: Plane) -> dict[str, Any]:
    encoded = coco.encode(np.asfortranarray(plane.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def blobs(seed: int, size: tuple[int, int]) -> Plane:
    """A mask with several parts, holes, and parts that touch at corners."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=size).astype(np.float32), (0, 0), 4)
    plane = noise > 0.02
    plane[:3, :3] = np.eye(3, dtype=bool)
    return np.asarray(plane, bool)


MASKS = [
    *(blobs(seed, (90 + seed, 120)) for seed in range(4)),
    np.ones((5, 7), bool),
    np.pad(np.ones((1, 1), bool), 3),
    np.indices((9, 8)).sum(axis=0) % 2 == 0,
]


def test_polygons_have_the_pixels_of_their_mask() -> None:
    program = """
        const masks = value.map((rle) => new Mask(rle));
        const result = masks.map((mask) => {
          const parts = it.partsOf(mask);
          const rings = parts.map(({ outer, holes }) => [outer, ...holes]);
          return {
            again: it.maskOf(rings, mask.height, mask.width).rle,
            flat: it.polygonsOf(mask, 0).map((ring) => ring.flat()),
            one: it.maskOf([[it.polygonOf(mask, 0)]], mask.height, mask.width).rle,
            parts: parts.length,
            holes: parts.reduce((sum, { holes }) => sum + holes.length, 0),
          };
        })"""
    for plane, found in zip(
        MASKS, node("polygons.js", program, [rle(m) for m in MASKS]), strict=True
    ):
        assert found["again"] == rle(plane)
        assert (coco.decode(found["one"]).astype(bool) == plane).all()
        count, _ = cv2.connectedComponents(plane.astype(np.uint8), connectivity=4)
        assert found["parts"] == count - 1
        outside = np.pad(~plane, 1, constant_values=True).astype(np.uint8)
        assert found["holes"] == cv2.connectedComponents(outside, connectivity=8)[0] - 2
        # `pycocotools` rounds to fifths of pixels, so single pixels differ along edges.
        if plane.sum() > 100:
            merged = coco.merge(coco.frPyObjects(found["flat"], *plane.shape))
            assert iou(coco.decode(merged).astype(bool), plane) > 0.97


def test_simplified_polygons_stay_close_to_the_outline() -> None:
    program = """
        const mask = new Mask(value);
        const result = [0, 0.5, 1, 2, 4, 8].map((epsilon) => {
          const rings = it.polygonsOf(mask, epsilon);
          return {
            points: rings.reduce((sum, ring) => sum + ring.length, 0),
            rle: it.maskOf(rings.map((ring) => [ring]), mask.height, mask.width).rle,
          };
        })"""
    canvas = np.zeros((300, 400), np.uint8)
    cv2.ellipse(canvas, (200, 150), (150, 90), 20, 0, 360, 1, -1)
    cv2.circle(canvas, (200, 150), 30, 0, -1)
    plane = canvas.astype(bool)
    found = node("polygons.js", program, rle(plane))
    points = [each["points"] for each in found]
    assert points == sorted(points, reverse=True)
    assert points[2] < points[0] / 4
    overlaps = [iou(coco.decode(each["rle"]).astype(bool), plane) for each in found]
    assert overlaps[0] == 1
    assert min(overlaps[1:4]) > 0.98
    assert overlaps[-1] > 0.85


def test_an_archive_is_read_by_others() -> None:
    files = {"a/b.txt": "ä\n", "leer": "", "dîr/c.txt": "x" * 70_000}
    program = """
        const files = Object.entries(value).map(([name, text]) => ({
          name, bytes: new TextEncoder().encode(text),
        }));
        const bytes = new Uint8Array(await it.zip(files).arrayBuffer());
        const result = Buffer.from(bytes).toString("latin1")"""
    with zipfile.ZipFile(BytesIO(node("zip.js", program, files).encode("latin1"))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name).decode() for name in archive.namelist()} == files


def test_paths_in_archives_stay_in_their_folder() -> None:
    names = ["../../etc/passwd", "a\\..\\b.png", "/root/x.png", "c:/d.png", "a\u202e/b\n.png", ".."]
    program = "const result = value.map(it.safePath)"
    assert node("zip.js", program, names) == [
        *("etc/passwd", "a/b.png", "root/x.png", "c_/d.png", "a_/b_.png", "image"),
    ]
