"""The pictures in docs/: responses to prompts on the demo scene, drawn over it.

python -m tests.pictures               regenerate most of docs/pictures/*.jpg
python -m tests.playground.pictures    regenerate those of the playground
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from rasterio.io import MemoryFile

from inference_server.demo import SAMPLE
from inference_server.masks import Mask
from inference_server.masks.render import overlay
from inference_server.segmentation.tiling import Grid
from tests.readme import DOCS, KEY, serving

PICTURES = DOCS / "pictures"
SIZE = (480, 360)
"""Width and height of the pictures; the scene has 640 x 480."""
MOST_BYTES = 40_000

_GOOD, _BAD, _EDGE = (20, 200, 60), (40, 70, 240), (255, 255, 255)


@dataclass(frozen=True)
class Shot:
    """A request, and the prompts that are drawn over its response.

    Attributes:
        path: Path of the endpoint.
        body: Body of the request, without its image.
        clicks: (x, y, positive) in pixels.
        box: (x0, y0, x1, y1) in pixels.
        names: Names of the prompts for the labels. Default: the labels are scores only.
    """

    path: str
    body: Mapping[str, Any]
    clicks: Sequence[tuple[float, float, bool]] = field(default=())
    box: tuple[float, float, float, float] | None = None
    names: Sequence[str] = ()


def _words(*texts: str, named: bool = False) -> Shot:
    body = {"prompts": [{"text": text} for text in texts]}
    return Shot("/sam3/concept_segment", body, names=texts if named else ())


def _exemplar(x0: float, y0: float, x1: float, y1: float) -> Shot:
    prompt = {"boxes": [{"x0": x0, "y0": y0, "x1": x1, "y1": y1}]}
    return Shot("/sam3/concept_segment", {"prompts": [prompt]}, box=(x0, y0, x1, y1))


def _clicks(*clicks: tuple[float, float, bool]) -> Shot:
    points = [{"x": x, "y": y, "positive": positive} for x, y, positive in clicks]
    return Shot("/sam3/visual_segment", {"prompts": [{"points": points}]}, clicks=clicks)


def _box(x0: float, y0: float, x1: float, y1: float) -> Shot:
    box = {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0}
    return Shot("/sam3/visual_segment", {"prompts": [{"box": box}]}, box=(x0, y0, x1, y1))


SHOTS = {
    "words": _words("red circle"),
    "two-words": _words("red circle", "cross"),
    "segment": _words("red circle", "cross", named=True),
    "click": _clicks((290, 330, True)),
    "box": _box(214, 258, 366, 405),
    "exemplar": _exemplar(214, 258, 366, 405),
    "too-much": _clicks((408, 360, True)),
    "refined": _clicks((408, 360, True), (305, 346, False)),
}
"""Shots by file name of the picture."""


def masks_of(answer: Mapping[str, Any], names: Sequence[str] = ()) -> list[tuple[Mask, str]]:
    """Decode the RLE masks of a response.

    Args:
        answer: The response.
        names: Names of the prompts. Default: none.

    Returns:
        (mask, label) pairs; a label is the name, if any, and the score, as the command line's.
    """
    found = []
    for result in answer["prompt_results"]:
        name = f"{names[result['prompt_index']]} " if names else ""
        for prediction in result["predictions"]:
            plane = coco.decode(prediction["masks"]).astype(bool)
            found.append((Mask.from_plane(plane), f"{name}{prediction['confidence']:.2f}"))
    return found


def take(server: httpx.Client, shot: Shot) -> Image.Image:
    """Send a shot to a server, and draw the response.

    Args:
        server: A client that sends a key.
        shot: The request and its prompts.
    """
    data = SAMPLE.read_bytes()
    image = {"type": "base64", "value": base64.b64encode(data).decode()}
    answer = server.post(shot.path, json={"image": image, "format": "rle", **shot.body})
    answer.raise_for_status()
    found = masks_of(answer.json(), shot.names)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    masks, labels = [mask for mask, _ in found], [label for _, label in found]
    drawn = Image.fromarray(overlay(pixels, masks, labels=labels))
    pen = ImageDraw.Draw(drawn)
    if shot.box is not None:
        pen.rectangle(shot.box, outline=_EDGE, width=6)
        pen.rectangle(tuple(np.add(shot.box, (1, 1, -1, -1))), outline=_GOOD, width=4)
    for x, y, positive in shot.clicks:
        pen.circle((x, y), 10, fill=_GOOD if positive else _BAD, outline=_EDGE, width=3)
    return drawn


DRAWN: Mapping[str, Mapping[str, Any]] = {
    "overlay": {"text_prompt": "shape"},
    "everything": {"points_per_side": 16, "pred_iou_thresh": 0.7},
}
"""Requests whose responses are drawn by the server, by file name of the picture."""


def drawn(server: httpx.Client, asked: Mapping[str, Any]) -> Image.Image:
    """Return the scene with masks as the server draws them."""
    image = base64.b64encode(SAMPLE.read_bytes()).decode()
    body = {"image": image, "return_preview": False, "return_overlay": True, **asked}
    answer = server.post("/v1/sam3-image", json=body)
    answer.raise_for_status()
    return Image.open(io.BytesIO(answer.content))


TILES, TILE_SIZE = 3, 400
"""Scenes along each side of the raster, and the side of a window in pixels."""


def raster(server: httpx.Client) -> Image.Image:
    """Draw the objects that windows of a raster found, and the windows."""
    pixels = np.tile(np.asarray(Image.open(SAMPLE).convert("RGB")), (TILES, TILES, 1))
    height, width = pixels.shape[:2]
    with MemoryFile() as file:
        with file.open(driver="GTiff", width=width, height=height, count=3, dtype="uint8") as tiff:
            tiff.write(np.moveaxis(pixels, -1, 0))
        data = file.read()
    form = {"prompt": "red circle", "tile_size": str(TILE_SIZE), "output_format": "png"}
    answer = server.post("/segment/text", files={"file": ("raster.tif", data)}, data=form)
    answer.raise_for_status()
    ids = np.asarray(Image.open(io.BytesIO(answer.content)))
    found = [Mask.from_plane(ids == value) for value in range(1, int(ids.max()) + 1)]
    drawn = Image.fromarray(overlay(pixels, found))
    pen = ImageDraw.Draw(drawn)
    windows = list(Grid.of((height, width), TILE_SIZE))
    for window in windows:
        pen.rectangle((window.x, window.y, window.right - 1, window.bottom - 1), None, _EDGE, 3)
    first = windows[len(windows) // 2]
    pen.rectangle((first.x, first.y, first.right - 1, first.bottom - 1), None, _GOOD, 12)
    return drawn


def make(server: httpx.Client) -> dict[str, bytes]:
    """Make all pictures.

    Args:
        server: A client that sends a key.

    Returns:
        JPEG files by name.
    """
    pictures: dict[str, Image.Image] = {"scene": Image.open(SAMPLE)}
    pictures |= {name: drawn(server, asked) for name, asked in DRAWN.items()}
    pictures |= {name: take(server, shot) for name, shot in SHOTS.items()}
    pictures["raster"] = raster(server)
    files = {}
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        small = picture.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
        small.save(buffer, "JPEG", quality=82, optimize=True)
        files[f"{name}.jpg"] = buffer.getvalue()
    return files


def main() -> None:
    """Write all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with (
        serving(INFERENCE_API_KEYS=KEY) as (address, _),
        httpx.Client(base_url=address, headers={"x-api-key": KEY}, timeout=120) as client,
    ):
        for name, data in make(client).items():
            (PICTURES / name).write_bytes(data)
            print(f"{Path('docs/pictures', name)}: {len(data)} bytes")


if __name__ == "__main__":
    main()
