"""Reference server: `SAM2ImagePredictor` behind a lock and the same HTTP stack.

A straightforward implementation: the model's own predictor in float32, one request at a time
because it is not thread-safe, features cached by image id, masks at full size, and OpenCV's or
pycocotools' encoder on the planes. It supports the JSON fields that the benchmarks use, so that the
same clients can use either server.
"""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import cv2
import numpy as np
import orjson
import torch
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.requests import EMBED, SEGMENT
from benchmarks.sam2_models import Sam2, predictor_of
from benchmarks.serving import CORES, Server, process


def encode_plane(plane: NDArray[Any], form: str) -> Any:
    """Encode a mask.

    Args:
        plane: mask of zeros and ones at full size, `[H, W]`.
        form: `polygon` or `rle`.
    """
    mask = plane.astype(np.uint8)
    if form == "rle":
        rle = coco.encode(np.asfortranarray(mask))
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(contour, np.int32)[:, 0] for contour in found]


def read_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an image to `uint8[H, W, 3]`, RGB, as the predictor's examples do.

    Args:
        data: image file.
    """
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


class Reference:
    """The predictor, and the features of encoded images.

    Args:
        model: model of the predictor.
    """

    def __init__(self, model: Any) -> None:
        self.predictor = predictor_of(model)
        self.encodes = 0
        self._lock = threading.Lock()
        self._features: dict[str, tuple[Any, Any]] = {}

    def _show(self, image_id: str, read: Callable[[], NDArray[np.uint8]]) -> None:
        known = self._features.get(image_id)
        if known is None:
            self.predictor.set_image(read())
            self.encodes += 1
            self._features[image_id] = (self.predictor._features, self.predictor._orig_hw)
        else:
            self.predictor._features, self.predictor._orig_hw = known
            self.predictor._is_image_set = True

    def embed(self, image_id: str, read: Callable[[], NDArray[np.uint8]]) -> None:
        """Encode an image unless it is cached.

        Args:
            image_id: id of the image.
            read: returns the image as `uint8[H, W, 3]`, RGB.
        """
        with self._lock:
            self._show(image_id, read)

    def segment(
        self,
        image_id: str,
        read: Callable[[], NDArray[np.uint8]],
        prompts: Sequence[dict[str, Any]],
        *,
        multimask: bool,
        form: str,
    ) -> list[dict[str, Any]]:
        """Predict one mask per prompt, one after another.

        Args:
            image_id: id of the image.
            read: returns the image as `uint8[H, W, 3]`, RGB; called if the id is not cached.
            prompts: arguments of `predict`, one dict per prompt.
            multimask: predict three masks and return the best one.
            form: mask format, `polygon` or `rle`.
        """
        found = []
        for prompt in prompts:
            with self._lock:
                self._show(image_id, read)
                masks, scores, _ = self.predictor.predict(**prompt, multimask_output=multimask)
            best = int(np.argmax(scores))
            found.append(
                {
                    "format": form,
                    "confidence": float(scores[best]),
                    "masks": encode_plane(masks[best], form),
                }
            )
        return found


def _prompt(sent: dict[str, Any]) -> dict[str, Any]:
    """Convert a JSON prompt to arguments of `predict`; JSON boxes have a centre."""
    prompt: dict[str, Any] = {}
    points = sent.get("points") or []
    if points:
        prompt["point_coords"] = np.array([[p["x"], p["y"]] for p in points], np.float32)
        prompt["point_labels"] = np.array([p["positive"] for p in points], np.int32)
    box = sent.get("box")
    if box:
        half = np.array([box["width"], box["height"]]) / 2
        centre = np.array([box["x"], box["y"]])
        prompt["box"] = np.concatenate([centre - half, centre + half]).astype(np.float32)
    return prompt


def create_app(reference: Reference) -> Starlette:
    """Build the reference server's application.

    Args:
        reference: the predictor.
    """

    def image_of(body: dict[str, Any]) -> tuple[str, Callable[[], NDArray[np.uint8]]]:
        sent = body.get("image") or {"value": ""}
        # Without an id, the base64 text identifies the image.
        name = body.get("image_id") or sent["value"]
        return name, lambda: read_image(base64.b64decode(sent["value"]))

    def answer(content: object) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

    def segment_image(raw: bytes) -> bytes:
        body = orjson.loads(raw)
        name, read = image_of(body)
        found = reference.segment(
            name,
            read,
            [_prompt(prompt) for prompt in body["prompts"]],
            multimask=body.get("multimask_output", True),
            form="rle" if body.get("format") == "rle" else "polygon",
        )
        return answer({"predictions": found})

    def embed_image(raw: bytes) -> bytes:
        body = orjson.loads(raw)
        name, read = image_of(body)
        reference.embed(name, read)
        return answer({"image_id": body.get("image_id")})

    def handler(work: Callable[[bytes], bytes]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            content = await asyncio.to_thread(work, await request.body())
            return Response(content, media_type="application/json")

        return handle

    async def readyz(request: Request) -> Response:
        del request
        return Response(answer({"status": "ok"}), media_type="application/json")

    async def encodes(request: Request) -> Response:
        del request
        return Response(answer({"encodes": reference.encodes}), media_type="application/json")

    return Starlette(
        routes=[
            Route(SEGMENT, handler(segment_image), methods=["POST"]),
            Route(EMBED, handler(embed_image), methods=["POST"]),
            Route("/encodes", encodes),
            Route("/readyz", readyz),
        ]
    )


@contextmanager
def reference_server(model: Sam2) -> Iterator[Server]:
    """Run the reference server in its own process.

    Args:
        model: model to serve.
    """
    arguments = ["-m", "benchmarks.reference_server", model.version, model.weights]
    with process(arguments, label="reference") as server:
        yield server


def serve(app: Starlette) -> None:
    """Serve on a free port and print the address, as `inference-server serve` does.

    Args:
        app: application to serve.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    click.echo(f"on http://127.0.0.1:{listener.getsockname()[1]}", err=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run([listener])


@click.command()
@click.argument("version")
@click.argument("weights")
def main(version: str, weights: str) -> None:
    """Serve the reference."""
    torch.set_num_threads(CORES)
    serve(create_app(Reference(Sam2(version, weights).load())))


if __name__ == "__main__":
    main()
