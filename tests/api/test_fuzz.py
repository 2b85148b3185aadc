"""Arbitrary input gets a documented response in the API's error format, never a 500."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.common import ErrorMessage, ValidationErrorResponse
from schemas.huggingface import SpaceError, SpacePredictResponse, SpaceResponse
from schemas.samgeo import ErrorDetail
from tests.api.pictures import noise
from tests.api.rasters import AUTOMATIC, PREDICT, TEXT, post
from tests.api.serving import CONCEPT, SAM3_EMBED, VISUAL, Running, RunningHere
from tests.fuzz import fuzzed
from tests.waiting import until

IMAGE = noise(800, (8, 8))
BOX = {"x": 1, "y": 2, "width": 3, "height": 4}
POINT = {"x": 1, "y": 2, "positive": True}

BODIES: dict[str, dict[str, Any]] = {
    CONCEPT: {
        "image": IMAGE,
        "image_id": None,
        "prompts": [
            {"type": "text", "text": "red circle", "output_prob_thresh": 0.5},
            {"boxes": [BOX, {"x0": 1, "y0": 1, "x1": 5, "y1": 5}], "box_labels": [1, False]},
        ],
        "format": "rle",
        "output_prob_thresh": 0.5,
        "nms_iou_threshold": 0.9,
        "model_id": "sam3/sam3_final",
    },
    VISUAL: {
        "image": IMAGE,
        "prompts": {"prompts": [{"box": BOX, "points": [POINT, POINT]}, {}]},
        "format": "json",
        "sam2_version_id": "hiera_tiny",
        "multimask_output": True,
        "save_logits_to_cache": True,
        "load_logits_from_cache": True,
    },
    SAM3_EMBED: {"image": IMAGE, "sam2_version_id": "hiera_small"},
}
PICTURES: dict[str, dict[str, Any]] = {
    "/v1/sam3-image": {
        "image": IMAGE["value"],
        "text_prompt": "red circle",
        "boxes_input": "[[1, 1, 5, 5]]",
        "points_input": [[1, 2], [3, 4]],
        "point_labels_input": "[[1, 0]]",
        "return_preview": True,
        "return_overlay": True,
        "return_masks": True,
        "threshold": 0.1,
        "points_per_side": 2,
        "pred_iou_thresh": 0.5,
        "max_masks": 5,
    },
    "/v1/sam-v2-image": {
        "image": IMAGE["value"],
        "prompt": None,
        "coordinates": "[[1, 2], [3, 4]]",
        "remove_coordinates": [5, 5],
        "overlay_mask": False,
        "base64": False,
    },
}

SPACE: dict[str, dict[str, Any]] = {
    "/api/sam2_compatible": {
        "inputs": {
            "image": IMAGE["value"],
            "text_prompts": ["red circle", "shape"],
            "points": [[1, 2], [3, 4]],
            "point_labels": [1, 0],
            "boxes": [[1, 1, 5, 5], [2, 2, 4, 4]],
            "box_labels": [1, 0],
            "multimask_output": True,
            "confidence_threshold": 0.1,
            "vectorize": True,
            "simplify_epsilon": 2.0,
        }
    },
    "/api/predict": {"data": [IMAGE["value"], "red circle", 0.5]},
}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(
        ["base64", "url", "text", "visual", "polygon", "binary", "http://[", "data:,"]
    )
    | st.sampled_from([0, 1, -1, 1e-300, 1e9, -1e9, 1e39, 2**63, [[]], [{}], BOX, POINT, IMAGE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a body."""
    found = [path] if path else []
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            found += places(value, (*path, key))
    return found


def changed(body: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """Return a copy of a body with one or two values replaced by arbitrary ones."""
    body = copy.deepcopy(body)
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(places(body)))
        node: Any = body
        for key in parents:
            node = node[key]
        # Copied: the next change may modify this value, which other examples share.
        node[last] = copy.deepcopy(data.draw(values))
    return body


@given(data=st.data())
@fuzzed(150)
def test_arbitrary_values_in_roboflow_requests(server: Running, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(BODIES)))
    body = changed(BODIES[path], data)
    response = server.post(path, json.dumps(body).encode())
    assert response.status_code in (200, 400, 404, 413, 422), response.text
    if response.status_code == 422:
        ValidationErrorResponse.model_validate(response.json())
    elif response.status_code != 200:
        ErrorMessage.model_validate(response.json())


json_texts = st.sampled_from(
    ["", "[]", "[[]]", "[1, 2]", "[[1, 2]]", "[[1, 2, 3, 4]]", "[[1]]", "[1", "[[NaN, 1]]", "null"]
)


@given(data=st.data())
@fuzzed(150)
def test_arbitrary_values_in_segmind_requests(server: Running, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(PICTURES)))
    body = dict(PICTURES[path])
    # A grid of 128 x 128 clicks is valid, but slow.
    names = sorted(body.keys() - {"points_per_side"})
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4)):
        body[name] = data.draw(values | json_texts)
    response = server.post(path, json.dumps(body).encode())
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert response.json().keys() == {"error", "code"}


@given(data=st.data())
@fuzzed(150)
def test_arbitrary_values_in_space_requests(server: Running, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(SPACE)))
    response = server.post(path, json.dumps(changed(SPACE[path], data)).encode())
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        error = SpaceError.model_validate(response.json())
        assert (error.success, error.masks, error.scores, error.num_objects) == (False, [], [], 0)
    elif path == "/api/predict":
        SpacePredictResponse.model_validate(response.json())
    else:
        SpaceResponse.model_validate(response.json())


@given(raw=st.binary(max_size=200))
@fuzzed(50)
def test_arbitrary_bytes(server: Running, raw: bytes) -> None:
    assert server.post(CONCEPT, raw).status_code == 422


FORMS = {
    TEXT: {"prompt": "circle"},
    PREDICT: {"point_coords": "[[10, 10]]", "point_labels": "[1]", "boxes": "[1, 2, 30, 40]"},
    AUTOMATIC: {"points_per_side": "2"},
}
NAMES = (
    *("prompt", "model_version", "model_id", "backend", "output_format", "confidence_threshold"),
    *("min_size", "max_size", "point_coords", "point_labels", "boxes", "point_crs", "unique"),
    *("multimask_output", "foreground", "pred_iou_thresh", "stability_score_thresh"),
)
texts = st.text(max_size=12) | st.sampled_from(
    [
        *("", "0", "1", "-1", "1e9", "nan", "true", "sam", "sam2", "json", "detections", "png"),
        *("[]", "[[]]", "[[1, 2], [3, 4]]", "[[1, 2, 3, 4]]", "[1, 2]", "{}", "[[1e30, 2]]"),
        *("EPSG:4326", "EPSG:0", "+proj=merc", "facebook/sam3", "sam2-hiera-tiny", "shape"),
    ]
)


@given(path=st.sampled_from(sorted(FORMS)), fields=st.dictionaries(st.sampled_from(NAMES), texts))
@fuzzed(150)
def test_arbitrary_form_fields(server: RunningHere, path: str, fields: dict[str, str]) -> None:
    data = base64.b64decode(noise(1)["value"])
    response = post(server, path, data, **{**FORMS[path], **fields})
    assert response.status_code in (200, 400, 404, 422, 503), response.text
    if response.status_code == 422:
        ValidationErrorResponse.model_validate(response.json())
    elif response.status_code != 200:
        ErrorDetail.model_validate(response.json())


@given(path=st.sampled_from(sorted(FORMS)), raw=st.binary(max_size=200))
@fuzzed(50)
def test_arbitrary_form_bytes(server: RunningHere, path: str, raw: bytes) -> None:
    raw = b"--x\r\n" + raw
    response = server.post(path, raw, content_type="multipart/form-data; boundary=x")
    assert response.status_code in (400, 422)
    until(lambda: server.state.uploads.nbytes == 0)
