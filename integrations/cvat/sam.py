"""Functions for CVAT's agents: clicks and boxes, or words, answered by inference-server.

This file is all that an agent needs besides `cvat-cli` and `cvat-sdk[masks]`; docs/cvat.md shows
how to run it. Without `labels` it is an interaction function, with `labels` a detection function.

Parameters (`-p NAME=TYPE:VALUE`), all optional:

* `url` (str): address of the server. Default: http://127.0.0.1:9001.
* `key` (str): API key. Default: the environment variable SAM_SERVER_KEY.
* `timeout` (float): seconds for one request. Default: 120.
* `labels` (str): labels to detect, separated by commas. The words that describe a label can follow
  it: `car=red car,person`.
* `threshold` (float): minimum confidence of a detection, 0 to 1, if CVAT sends none. Default: 0.5.
* `nms` (float): of two detections with a mask IoU above this, the better one is kept, also if their
  labels differ; 1 keeps all. Default: 0.9.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import cvat_sdk.auto_annotation as cvataa
import numpy as np
import PIL.Image
import urllib3
from cvat_sdk import models
from cvat_sdk.masks import encode_mask
from numpy.typing import NDArray

UNKNOWN_IMAGE = 404

_JPEG = {"quality": 95, "subsampling": 0}
_RETRIES = urllib3.Retry(
    total=3,
    connect=1,
    backoff_factor=0.5,
    allowed_methods=None,  # requests change nothing, so all can be repeated
    status_forcelist=(429, 503),
    raise_on_status=False,
)


class SentImage:
    """An image of a task, which is sent once and then named by its id.

    Args:
        image: the image.
    """

    def __init__(self, image: PIL.Image.Image) -> None:
        file = io.BytesIO()
        image.convert("RGB").save(file, "JPEG", **_JPEG)
        self._data = file.getvalue()
        self._id = f"cvat-{hashlib.sha256(self._data).hexdigest()}"
        self._is_sent = False

    def ask(self, server: Server, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request about the image, with its bytes if the server does not have them.

        Args:
            server: the server.
            path: path of the endpoint.
            body: the request without the image.

        Raises:
            BadFunctionError: the server cannot be reached, or reports an error.
        """
        named = {**body, "image_id": self._id}
        if self._is_sent:
            status, answer = server.post(path, named)
            if status != UNKNOWN_IMAGE:
                return checked(status, answer)
        # The first request, or the server evicted the image.
        value = base64.b64encode(self._data).decode()
        status, answer = server.post(path, {**named, "image": {"type": "base64", "value": value}})
        answer = checked(status, answer)
        self._is_sent = True
        return answer


class Server:
    """The HTTP API of inference-server.

    Args:
        url: its address.
        key: API key; None for the environment variable SAM_SERVER_KEY, if it is set.
        timeout: seconds for one request.
    """

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self._url = url.rstrip("/")
        key = key or os.environ.get("SAM_SERVER_KEY")
        self._headers = {"content-type": "application/json", "accept-encoding": "gzip"}
        if key:
            self._headers["x-api-key"] = key
        self._http = urllib3.PoolManager(timeout=timeout, retries=_RETRIES)

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Send a request.

        Returns:
            (HTTP status, the response's JSON; None if it has none).

        Raises:
            BadFunctionError: the server cannot be reached.
        """
        try:
            response = self._http.request(
                "POST", self._url + path, body=json.dumps(body).encode(), headers=self._headers
            )
        except urllib3.exceptions.HTTPError as error:
            cause = getattr(error, "reason", None) or error
            raise cvataa.BadFunctionError(
                # Without the address's user info, which may be a key.
                f"inference-server at {urlsplit(self._url).hostname} cannot be reached: "
                f"{type(cause).__name__}"
            ) from None
        try:
            return response.status, json.loads(response.data)
        except ValueError:
            return response.status, None


def checked(status: int, answer: Any) -> Any:
    """Return the JSON of a successful response.

    Raises:
        BadFunctionError: the server reports an error. CVAT shows users only errors of this class.
    """
    if status == 200 and isinstance(answer, dict):
        return answer
    told = answer if isinstance(answer, dict) else {}
    detail = told.get("detail")
    if isinstance(detail, list):
        detail = "; ".join(str(each.get("msg")) for each in detail if isinstance(each, dict))
    message = told.get("message") or detail or "the response has no message"
    raise cvataa.BadFunctionError(f"inference-server answered {status}: {message}")


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Decode a mask in COCO's compressed run lengths.

    Args:
        rle: `size`, [height, width], and `counts`.

    Returns:
        bool [height, width].
    """
    height, width = rle["size"]
    counts: list[int] = []
    value = shift = 0
    for character in rle["counts"].encode():
        digit = character - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:  # negative
                value -= 1 << shift
            # From the fourth on, a count is the difference to the one before the last.
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.asarray(flat.reshape(width, height).T)


class Interaction:
    """Segments the object at clicks, in a box, or both.

    Args:
        server: the server.
    """

    spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, server: Server) -> None:
        self._server = server

    def preprocess_image(self, context: object, image: PIL.Image.Image) -> SentImage:
        """Encode the image's file; the agent keeps the result for further clicks."""
        del context
        return SentImage(image)

    def detect(self, context: object, image: SentImage, prompts: Any) -> list[Any]:
        """Return the mask of the object; nothing if all clicks are negative.

        Raises:
            BadFunctionError: the server cannot be reached, or reports an error.
        """
        del context
        positive, negative, box = prompts.pos_points, prompts.neg_points, prompts.bounding_box
        if not positive and box is None:
            return []
        prompt: dict[str, Any] = {
            "points": [
                {"x": x, "y": y, "positive": is_positive}
                for points, is_positive in ((positive, True), (negative, False))
                for x, y in points
            ]
        }
        if box is not None:
            (x0, y0), (x1, y1) = box
            prompt["box"] = {
                "x": (x0 + x1) / 2,
                "y": (y0 + y1) / 2,
                "width": abs(x1 - x0),
                "height": abs(y1 - y0),
            }
        body = {
            "prompts": {"prompts": [prompt]},
            "format": "rle",
            # A single click is ambiguous: the best of three masks.
            "multimask_output": box is None and len(prompt["points"]) == 1,
        }
        answer = image.ask(self._server, "/sam3/visual_segment", body)
        (found,) = answer["predictions"]
        mask = decode_rle(found["masks"])
        if not mask.any():
            return []
        confidence = models.AttributeValRequest(
            spec_id=cvataa.InteractionResultAttributes.CONFIDENCE.value,
            value=f"{found['confidence']:.4f}",
        )
        return [
            cvataa.InteractionResultShape(
                type="mask", points=encode_mask(mask), attributes=[confidence]
            )
        ]


class Detection:
    """Finds all instances of the labels.

    Args:
        server: the server.
        labels: labels, separated by commas, with their words after a `=` if they differ.
        threshold: minimum confidence if CVAT sends none.
        nms: maximum mask IoU of two detections.
    """

    def __init__(self, server: Server, labels: str, threshold: float, nms: float) -> None:
        self._server = server
        self._threshold = threshold
        self._nms = nms
        pairs = [each.partition("=") for each in labels.split(",") if each.strip()]
        names = [name.strip() for name, _, _ in pairs]
        self._words = [words.strip() or name.strip() for name, _, words in pairs]
        if not names or not all(names):
            raise cvataa.BadFunctionError(
                "`labels` has an empty label. Send labels separated by commas, such as car,person"
            )
        self.spec = cvataa.DetectionFunctionSpec(
            # Any type, because masks become polygons if the user wants them to.
            labels=[cvataa.label_spec(name, index) for index, name in enumerate(names)]
        )

    def detect(self, context: Any, image: PIL.Image.Image) -> Sequence[Any]:
        """Return the detections as masks, or as polygons if the user wants those.

        Raises:
            BadFunctionError: the server cannot be reached, or reports an error.
        """
        threshold = context.conf_threshold
        body = {
            "prompts": [{"type": "text", "text": words} for words in self._words],
            "output_prob_thresh": self._threshold if threshold is None else threshold,
            "format": "polygon" if context.conv_mask_to_poly else "rle",
        }
        if self._nms < 1:
            body["nms_iou_threshold"] = self._nms
        answer = SentImage(image).ask(self._server, "/sam3/concept_segment", body)
        shape = _polygons if context.conv_mask_to_poly else _masks
        return [
            annotation
            for result in answer["prompt_results"]
            for prediction in result["predictions"]
            for annotation in shape(result["prompt_index"], prediction)
        ]


def _masks(label: int, prediction: Mapping[str, Any]) -> list[Any]:
    points = encode_mask(decode_rle(prediction["masks"]))
    return [cvataa.mask(label, points, score=prediction["confidence"])]


def _polygons(label: int, prediction: Mapping[str, Any]) -> list[Any]:
    """Return a polygon per part of the mask; CVAT needs three points."""
    return [
        cvataa.polygon(
            label,
            [float(number) for point in part for number in point],
            score=prediction["confidence"],
        )
        for part in prediction["masks"]
        if len(part) >= 3
    ]


def create(
    url: str = "http://127.0.0.1:9001",
    key: str | None = None,
    timeout: float = 120.0,
    labels: str | None = None,
    threshold: float = 0.5,
    nms: float = 0.9,
) -> Interaction | Detection:
    """Make a function from the parameters of `cvat-cli`; see the module's description."""
    server = Server(url, key, timeout)
    if labels is None:
        return Interaction(server)
    return Detection(server, labels, threshold, nms)
