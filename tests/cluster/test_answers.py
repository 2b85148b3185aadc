"""A cluster's responses equal those of one process: masks, headers, errors, jobs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from inference_server.cli import main
from tests.api.pictures import Gallery, Picture, click, in_base64, iou, noise, plane
from tests.api.serving import ALICE, BOB, CONCEPT, VISUAL, RunningHere, in_process, until
from tests.api.test_jobs import ended, submitted
from tests.cluster.servers import ClusterServer

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def server() -> Iterator[RunningHere]:
    """One process that answers points as the cluster does."""
    with in_process(fetch_networks="127.0.0.0/8", visual_model="sam2") as running:
        yield running


def without_times(answer: Any) -> Any:
    """Remove the fields that differ between two identical requests."""
    if isinstance(answer, dict):
        return {k: without_times(v) for k, v in answer.items() if k not in ("time", "job_id")}
    if isinstance(answer, list):
        return [without_times(each) for each in answer]
    # Replicas have fewer threads, so sums are in another order.
    return round(answer, 3) if isinstance(answer, float) else answer


def test_masks_equal_those_of_one_process(
    two: ClusterServer, server: RunningHere, picture: Picture
) -> None:
    """Masks of a cluster and of one process are equal to the pixel."""
    item = picture.one("red square")
    two_concepts = [{"text": "circle"}, {"text": "red circle"}]
    prompts = [click(item), click(picture.one("blue circle"))]
    asked: list[tuple[str, dict[str, Any]]] = [
        (CONCEPT, {"prompts": [{"text": "red circle"}]}),
        (CONCEPT, {"prompts": two_concepts, "nms_iou_threshold": 0.5}),
        (VISUAL, {"prompts": {"prompts": prompts}}),
        (VISUAL, {"prompts": {"prompts": prompts}, "include_boxes": True}),
        (VISUAL, {"prompts": {"prompts": prompts}, "multimask_output": False}),
    ]
    for path, fields in asked:
        for form in ("rle", "polygon"):
            body = {"image": picture.sent, "format": form, **fields}
            here, there = server.post(path, body), two.post(path, body)
            assert there.status_code == 200, there.text
            assert without_times(there.json()) == without_times(here.json())
            assert there.headers["x-model"] == here.headers["x-model"]
            assert there.headers.get_list("x-request-id") == [there.headers["x-request-id"]]
    for path, fields in asked:
        body = {"image": picture.sent, "simplify_epsilon": 2, **fields}
        here, there = server.post(path, body), two.post(path, body)
        assert there.status_code == 200, there.text
        assert without_times(there.json()) == without_times(here.json())
    found = two.concept(picture.sent, "red circle", format="polygon")[0]
    truth = picture.matching("red circle")
    assert len(found) == len(truth) == 2
    assert all(max(iou(plane(f, picture.size), t) for f in found) > 0.8 for t in truth)
    (square,) = two.visual(picture.sent, click(item))
    assert iou(plane(square, picture.size), item.mask) > 0.8


def test_other_apis_respond_as_one_process(
    two: ClusterServer, server: RunningHere, picture: Picture
) -> None:
    """PNGs, overlays and automatic masks, which the ingress renders."""
    x, y = picture.one("red square").click()
    image = picture.sent["value"]
    both = {"text_prompts": ["blue circle"], "points": [[x, y]], "point_labels": [1]}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/sam3-image", {"image": image, "text_prompt": "red circle", "return_overlay": True}),
        ("/v1/sam3-image", {"image": image, "text_prompt": "circle", "return_masks": True}),
        ("/v1/sam-v2-image", {"image": image, "prompt": "red circle"}),
        ("/api/sam2_compatible", {"inputs": {"image": image, "vectorize": True, **both}}),
    ]
    for path, body in asked:
        here, there = server.post(path, body), two.post(path, body)
        assert here.status_code == there.status_code == 200, (path, there.text, here.text)
        assert there.headers["content-type"] == here.headers["content-type"]
        if "json" in there.headers["content-type"]:
            assert without_times(there.json()) == without_times(here.json())
        else:
            assert there.content == here.content
    form = {
        "files": {"file": ("a.png", picture.data)},
        "data": {"output_format": "geojson", "points_per_side": "8"},
    }
    headers = {"x-api-key": ALICE}
    answers = [
        running.http.post("/segment/automatic", headers=headers, **form)  # type: ignore[arg-type]
        for running in (server, two)
    ]
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    assert without_times(answers[0].json()) == without_times(answers[1].json())


def test_a_large_image_and_one_by_url(
    two: ClusterServer, picture: Picture, gallery: Gallery
) -> None:
    """A large file goes through the object store. A URL is fetched by the ingress, and not at all
    if a replica has the image under its id.
    """
    height, width = picture.size
    rng = np.random.default_rng(7)
    noisy = picture.scene.image.astype(int) + rng.integers(-9, 10, (height, width, 3))
    large = cv2.resize(np.clip(noisy, 0, 255).astype(np.uint8), (2 * width, 2 * height))
    sent = in_base64(cv2.imencode(".png", large[..., ::-1])[1].tobytes())
    assert len(sent["value"]) > 2_000_000
    item = picture.one("red square")
    x, y = item.click()
    prompt = {"points": [{"x": 2 * x, "y": 2 * y, "positive": True}]}
    truth = cv2.resize(item.mask.astype(np.uint8), (2 * width, 2 * height)).astype(bool)
    for _ in range(2):
        (found,) = two.visual(sent, prompt)
        assert iou(plane(found, (2 * height, 2 * width)), truth) > 0.8
    named = gallery.hang("/cluster.png", picture.data)
    for number in range(2):
        (found,) = two.visual(named, click(item), image_id="by-address")
        assert iou(plane(found, picture.size), item.mask) > 0.8
        assert gallery.visits.count("/cluster.png") == 1, number


def test_an_id_works_for_its_tenant_and_every_engine(two: ClusterServer, picture: Picture) -> None:
    item = picture.one("red square")
    named = two.answer("/sam2/embed_image", image=picture.sent)["image_id"]
    by_name = {"image_id": named, "prompts": {"prompts": [click(item)]}, "format": "rle"}
    response = two.post(VISUAL, by_name)
    assert response.headers["x-embedding-cache"] == "hit"
    assert iou(plane(response.json()["predictions"][0], picture.size), item.mask) > 0.8
    # SAM 3 does not have the image: its replica gets the file from the replica of SAM 2.
    found = two.answer(CONCEPT, image_id=named, prompts=[{"text": "red circle"}], format="rle")
    assert len(found["prompt_results"][0]["predictions"]) == 2
    refused = two.post(VISUAL, by_name, key=BOB)
    assert refused.status_code == 404
    assert "image_id" in refused.json()["message"]
    other = two.post(VISUAL, {**by_name, "image": noise(3)})
    assert other.headers["x-image-mismatch"] == "true"
    refused = two.post(VISUAL, {"image_id": "never-sent", "prompts": {"prompts": [click(item)]}})
    assert refused.status_code == 404


def test_an_image_is_forgotten_and_replaced_in_all_replicas(
    two: ClusterServer, picture: Picture
) -> None:
    """Requests reach both ingresses in turn; each of them keeps the file of an image with an id."""
    item = picture.one("red square")
    by_name = {"image_id": "given away", "prompts": {"prompts": [click(item)]}, "format": "rle"}
    for _ in range(6):
        assert two.post(VISUAL, {**by_name, "image": noise(4)}).status_code == 200
    replacing = {"image": picture.sent, "image_id": "given away", "replace": True}
    assert two.post("/sam3/embed_image", replacing).status_code == 200
    for _ in range(6):
        found = two.answer(VISUAL, **by_name)["predictions"]
        assert iou(plane(found[0], picture.size), item.mask) > 0.8
        found = two.answer(
            CONCEPT, image_id="given away", prompts=[{"text": "red circle"}], format="rle"
        )
        assert len(found["prompt_results"][0]["predictions"]) == 2
    answers = [
        two.http.delete("/images/given%20away", headers={"x-api-key": key}).json()["forgotten"]
        for key in (BOB, ALICE, ALICE)
    ]
    assert answers == [False, True, False]
    for _ in range(6):
        assert two.post(VISUAL, by_name).status_code == 404


def test_logits_and_binary_masks_cross_the_network(
    two: ClusterServer, server: RunningHere, picture: Picture
) -> None:
    body = {
        "image": picture.sent,
        "image_id": "logits",
        "format": "binary",
        "prompts": {"prompts": [click(picture.one("blue circle"))]},
        "save_logits_to_cache": True,
    }
    files = [np.load(io.BytesIO(running.post(VISUAL, body).content)) for running in (server, two)]
    assert sorted(files[0]) == sorted(files[1])
    for name in files[0]:
        np.testing.assert_allclose(files[0][name], files[1][name], atol=1e-3)
    # A second click refines the logits that the first one saved in the replica.
    again = {**body, "format": "rle", "load_logits_from_cache": True}
    here, there = server.post(VISUAL, again), two.post(VISUAL, again)
    assert without_times(there.json()) == without_times(here.json())


def test_errors_have_the_usual_statuses(two: ClusterServer, picture: Picture) -> None:
    point = {"points": [{"x": 1, "y": 1, "positive": True}]}
    broken = in_base64(b"no image at all")
    for status, path, body in (
        (400, VISUAL, {"image": broken, "prompts": {"prompts": [point]}}),
        (422, CONCEPT, {"image": picture.sent, "prompts": []}),
        (400, "/v1/sam3-image", {"image": broken["value"], "text_prompt": "circle"}),
    ):
        response = two.post(path, body)
        assert response.status_code == status, response.text
    assert two.post(VISUAL, {}, key=None).status_code == 401
    assert two.get("/models", key="wrong").status_code == 401


def test_ingresses_share_keys_jobs_and_rates(two: ClusterServer, picture: Picture) -> None:
    """Requests go to either ingress; keys, jobs and rate limits are shared."""
    made = CliRunner().invoke(
        main,
        ["keys", "create", "--name", "cluster", "--rate", "3/hour"],
        env={"INFERENCE_DATABASE_URL": two.settings["database_url"]},
    )
    assert made.exit_code == 0, made.output
    key = next(word for word in made.output.split() if word.startswith("inf_"))
    until(lambda: all(two.get("/models", key=key).is_success for _ in range(12)), pause=0.5)
    body = {"image": noise(1), "prompts": {"prompts": []}}
    statuses = [two.post(VISUAL, body, key=key).status_code for _ in range(12)]
    assert sorted(set(statuses)) == [200, 429]
    assert statuses.count(200) == 3, "the ingresses count together"
    jobs = [
        submitted(two, f"/v2{VISUAL}", image=noise(number), prompts={"prompts": []})
        for number in range(6)
    ]
    assert [ended(two, job).status_code for job in jobs] == [200] * 6


def test_clearing_reaches_every_replica(two: ClusterServer) -> None:
    owned: dict[str, list[str]] = {}
    for number in range(100):
        image = f"clear-{number}"
        owned.setdefault(two.owner("visual", image).name, []).append(image)
    assert len(owned) == 2
    ids = [image for images in owned.values() for image in images[:4]]
    for number, image in enumerate(ids):
        two.answer("/sam2/embed_image", image=noise(number), image_id=image)
    assert two.http.request("DELETE", "/models", headers={"x-api-key": ALICE}).status_code == 200
    assert two.get("/readyz").status_code == 200
    for number, image in enumerate(ids):
        body = {"image": noise(number), "image_id": image, "prompts": {"prompts": []}}
        response = two.post(VISUAL, body)
        assert (response.status_code, response.headers["x-embedding-cache"]) == (200, "miss")
