"""Jobs over HTTP: submit and poll."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.api.pictures import Picture, assert_finds, click, iou, noise, plane
from tests.api.serving import ALICE, BOB, CONCEPT, VISUAL, Running, RunningHere, serving, until
from tests.api.test_openapi_document import FILE, assert_fits


@pytest.fixture(scope="session")
def server(listening: RunningHere) -> RunningHere:
    """A server behind a socket."""
    return listening


KINDS = ("/v2/sam3-image", "/v2/sam-v2-image", f"/v2{CONCEPT}", f"/v2{VISUAL}")


def submitted(server: Running, path: str, /, key: str = ALICE, **body: Any) -> dict[str, Any]:
    response = server.post(path, body, key=key)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    answer: dict[str, Any] = response.json()
    where = f"{server.url}/v2/requests/{answer['request_id']}"
    assert answer == {
        "request_id": answer["request_id"],
        "status": "QUEUED",
        "status_url": f"{where}/status",
        "response_url": where,
        "poll_url": f"{where}/status",
    }
    return answer


def ended(server: Running, job: dict[str, Any]) -> httpx.Response:
    """Poll until the job has a result, and return it."""
    seen = []

    def done() -> bool:
        answer = server.get(job["status_url"])
        body = answer.json()
        assert body["request_id"] == job["request_id"]
        seen.append(body["status"])
        assert answer.status_code == (422 if seen[-1] == "FAILED" else 200)
        assert ("inference_time" in body.get("metrics", {})) == (seen[-1] == "COMPLETED")
        return seen[-1] in ("COMPLETED", "FAILED")

    until(done)
    order = ["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]
    assert seen == sorted(seen, key=order.index)
    return server.get(job["response_url"])


def completed(server: Running, path: str, /, **body: Any) -> dict[str, Any]:
    response = ended(server, submitted(server, path, **body))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["status"] == "COMPLETED"
    assert answer["error"] is None
    assert answer["metrics"]["inference_time"] > 0
    return answer


def image_of(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "time"}


@pytest.mark.parametrize("path", [CONCEPT, VISUAL])
def test_jobs_simplify_and_add_boxes(server: Running, picture: Picture, path: str) -> None:
    prompt = {"text": "red circle"} if path == CONCEPT else click(picture.one("red square"))
    body = {"image": picture.sent, "prompts": [prompt]}
    options = {"simplify_epsilon": 3, "include_boxes": True}
    job = completed(server, f"/v2{path}", **body, **options)
    assert without_time(job["output"]) == without_time(server.answer(path, **body, **options))
    (first, *_) = job["output"]["prompt_results"][0]["predictions"]
    assert len(first["bbox"]) == 4
    assert len(first["masks"][0]) < 30


def test_json_equals_that_of_the_synchronous_endpoint(server: Running, picture: Picture) -> None:
    body = {"image": picture.sent, "prompts": [{"text": "red circle"}], "format": "rle"}
    job = completed(server, f"/v2{CONCEPT}", **body)
    assert job["images"] == []
    found = job["output"]["prompt_results"][0]["predictions"]
    assert_finds(found, picture.matching("red circle"), picture.size)
    assert without_time(job["output"]) == without_time(server.answer(CONCEPT, **body))

    item = picture.one("blue square")
    body = {"image": picture.sent, "prompts": [click(item)], "format": "rle"}
    job = completed(server, f"/v2{VISUAL}", **body)
    assert iou(plane(job["output"]["predictions"][0], picture.size), item.mask) > 0.8
    assert without_time(job["output"]) == without_time(server.answer(VISUAL, **body))


def test_one_file(server: Running, picture: Picture) -> None:
    sent = picture.sent["value"]
    job = completed(server, "/v2/sam3-image", image=sent, text_prompt="red circle")
    (image,) = job["images"]
    assert job["output"] == image["url"]
    assert image["url"].startswith(f"{server.url}/v2/requests/{job['request_id']}/files/preview")
    assert (image["file_name"], image["content_type"]) == ("preview.png", "image/png")
    answer = httpx.get(image["url"])
    assert answer.status_code == 200
    assert len(answer.content) == image["file_size"]
    truth = np.any(picture.matching("red circle"), axis=0)
    assert iou(image_of(answer.content) > 127, truth) > 0.8
    same = server.post("/v1/sam3-image", {"image": sent, "text_prompt": "red circle"})
    assert answer.content == same.content


def test_several_files(server: Running, picture: Picture) -> None:
    job = completed(
        server,
        "/v2/sam3-image",
        image=picture.sent["value"],
        text_prompt="red circle",
        return_overlay=True,
        return_masks=True,
    )
    names = [image["file_name"] for image in job["images"]]
    assert names == ["preview.png", "overlay.png", "mask_1.png", "mask_2.png"]
    assert job["output"] == [image["url"] for image in job["images"]]
    preview, overlay, *masks = (image_of(httpx.get(url).content) for url in job["output"])
    assert overlay.shape == (*picture.size, 3)
    assert np.array_equal(masks[0] | masks[1], preview)


def test_base64_is_in_the_output(server: Running, picture: Picture) -> None:
    item = picture.one("red circle")
    points = str([list(item.click())])
    body = {"image": picture.sent["value"], "coordinates": points, "overlay_mask": False}
    job = completed(server, "/v2/sam-v2-image", **body, base64=True)
    assert job["images"] == []
    assert iou(image_of(base64.b64decode(job["output"])) > 127, item.mask) > 0.8
    job = completed(server, "/v2/sam-v2-image", **body)
    assert iou(image_of(httpx.get(job["output"]).content) > 127, item.mask) > 0.8


def test_binary_masks(server: Running, picture: Picture) -> None:
    item = picture.one("red circle")
    job = completed(
        server, f"/v2{VISUAL}", image=picture.sent, prompts=[click(item)], format="binary"
    )
    answer = httpx.get(job["output"])
    assert answer.headers["content-type"] == "application/octet-stream"
    with np.load(io.BytesIO(answer.content)) as arrays:
        assert iou(arrays["masks"][0], item.mask) > 0.8


def test_the_result_names_its_weights(server: RunningHere) -> None:
    response = ended(server, submitted(server, f"/v2{VISUAL}", image=noise(801)))
    assert response.headers["x-model"] == server.points_model


def test_headers_of_a_result_file(server: Running, picture: Picture) -> None:
    job = completed(server, "/v2/sam3-image", image=picture.sent["value"], text_prompt="circle")
    headers = httpx.get(job["output"]).headers
    assert headers["content-type"] == "image/png"
    assert headers["content-disposition"] == 'inline; filename="preview.png"'
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"].startswith("private, max-age=35")
    assert "sandbox" in headers["content-security-policy"]


def test_a_changed_link_is_refused(server: Running, picture: Picture) -> None:
    job = completed(server, "/v2/sam3-image", image=picture.sent["value"], text_prompt="circle")
    good = job["output"]
    bad = [
        good[:-1],
        good.replace("preview", "overlay"),
        good.replace("expires=1", "expires=2"),
        good.split("?")[0],
        good.replace("/files/preview.png", "/files/output.json"),
        good.replace("/files/", "/files/..%2f"),
        good.replace(job["request_id"], "0" * 32),
    ]
    for url in bad:
        for headers in ({}, {"x-api-key": ALICE}):
            answer = httpx.get(url, headers=headers)
            assert answer.status_code == 404, url
            assert "status" not in answer.json()
    assert httpx.get(good).status_code == 200


class TestFailures:
    def test_an_unknown_model_is_refused_at_once(self, server: Running) -> None:
        """As at the synchronous endpoint; nothing is queued or charged."""
        body = {"image": noise(30), "prompts": [{"text": "dog"}], "model_id": "sam3/other"}
        refused = [server.post(path, body) for path in (CONCEPT, f"/v2{CONCEPT}")]
        assert [each.status_code for each in refused] == [422, 422]
        assert refused[0].json() == refused[1].json()

    def test_an_invalid_image_fails_the_job(self, server: Running) -> None:
        job = submitted(server, "/v2/sam3-image", image="AAAA", text_prompt="circle")
        response = ended(server, job)
        assert response.status_code == 422
        body = response.json()
        assert body == {
            "request_id": job["request_id"],
            "status": "FAILED",
            "error": body["error"],
        }
        assert body["error"].startswith("Could not load input image")

    def test_unknown_ids(self, server: Running) -> None:
        for name in ("0" * 32, "x", "%00", "..%2f..", "é", "' or 1=1"):
            for path in (f"/v2/requests/{name}", f"/v2/requests/{name}/status"):
                answer = server.get(path)
                assert answer.status_code == 404, path
                assert list(answer.json()) in (["error", "code"], ["message", "code"])

    def test_an_id_of_another_form_is_unknown(self, server: Running) -> None:
        for job_id in ("%00", "0" * 31 + "%00", "x" * 32, "0" * 33):
            for path in ("", "/status"):
                assert server.get(f"/v2/requests/{job_id}{path}").status_code == 404

    def test_the_message_of_404(self, server: Running) -> None:
        answer = server.get(f"/v2/requests/{'0' * 32}")
        message = f"Request {'0' * 32} not found: it is unknown or has expired."
        assert answer.json() == {"error": message, "code": "unknown_job"}

    def test_jobs_of_another_key(self, server: Running) -> None:
        job = submitted(server, f"/v2{VISUAL}", image=noise(802))
        for url in (job["status_url"], job["response_url"]):
            assert server.get(url, key=BOB).status_code == 404
            assert server.get(url, key=None).status_code == 401
            assert "error" in server.get(url, key="wrong").json()
        assert ended(server, job).status_code == 200
        assert server.get(job["response_url"], key=BOB).status_code == 404

    @pytest.mark.parametrize("path", KINDS)
    def test_invalid_bodies_get_the_errors_of_their_api(self, server: Running, path: str) -> None:
        is_segmind = "image" in path
        for body in ({"image": 7}, b"{", b"[]"):
            answer = server.post(path, body)
            assert answer.status_code == (400 if is_segmind else 422)
            assert list(answer.json()) == ["error" if is_segmind else "detail", "code"]
        assert server.post(path, {}, key=None).status_code == 401
        answer = server.post(path, {}, key="wrong")
        assert list(answer.json()) == ["error" if is_segmind else "message", "code"]

    def test_unknown_slugs(self, server: Running) -> None:
        assert server.post("/v2/sdxl", {}).status_code == 404
        assert server.post("/v2/requests", {}).status_code == 404


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningHere, Path]]:
    """A server that accepts jobs but runs none."""
    directory = tmp_path_factory.mktemp("data")
    values: dict[str, Any] = {"job_queue_size": 3, "job_queue_per_key": 2, "max_body_mb": 1}
    with serving(ready=False, data_dir=str(directory), job_workers=0, **values) as running:
        yield running, directory


class TestBounds:
    def test_no_raster_by_name_without_a_directory(self, server: Running) -> None:
        body = {"image": {"type": "file", "value": "a.tif"}, "prompts": [{"text": "x"}]}
        response = server.post(f"/v2{CONCEPT}", body)
        assert response.status_code == 400
        assert "INFERENCE_RASTER_DIRECTORY" in response.json()["message"]

    def test_a_full_queue(self, full: tuple[RunningHere, Path]) -> None:
        server, directory = full
        body: dict[str, Any] = {"image": noise(803), "api_key": ALICE}
        jobs = [submitted(server, f"/v2{VISUAL}", **body) for _ in range(2)]
        answer = server.post(f"/v2{VISUAL}", body)
        assert answer.status_code == 429
        assert "INFERENCE_JOB_QUEUE_PER_KEY" in answer.json()["message"]
        assert int(answer.headers["retry-after"]) >= 1
        submitted(server, "/v2/sam3-image", key=BOB, image="AAAA")
        answer = server.post("/v2/sam3-image", {"image": "AAAA"}, key=BOB)
        assert answer.status_code == 429
        assert "INFERENCE_JOB_QUEUE_SIZE" in answer.json()["error"]
        waiting = server.get(jobs[0]["response_url"])
        assert waiting.json() == {
            "request_id": jobs[0]["request_id"],
            "status": "QUEUED",
            "error": None,
            "output": None,
            "metrics": {},
            "images": [],
        }
        assert server.get(jobs[0]["status_url"]).json()["status"] == "QUEUED"
        with closing(sqlite3.connect(directory / "jobs.sqlite", timeout=60)) as database:
            payloads = database.execute("select content from inference_job_payloads").fetchall()
        assert len(payloads) == 3
        assert not any(ALICE.encode() in content for (content,) in payloads)

    def test_a_large_body(self, full: tuple[RunningHere, Path]) -> None:
        server, _ = full
        assert server.post("/v2/sam3-image", {"image": "A" * 1_100_000}).status_code == 400
        assert server.post(f"/v2{VISUAL}", {"image": "A" * 1_100_000}).status_code == 413

    def test_results_expire_with_their_files(self, tmp_path: Path, picture: Picture) -> None:
        with serving(data_dir=str(tmp_path)) as server:
            job = completed(
                server, "/v2/sam3-image", image=picture.sent["value"], text_prompt="circle"
            )
            where = f"/v2/requests/{job['request_id']}"
            assert httpx.get(job["output"]).status_code == 200
            with closing(sqlite3.connect(tmp_path / "jobs.sqlite", timeout=60)) as database:
                sooner = "update inference_jobs set expires = expires - 3600 where id = ?"
                database.execute(sooner, [job["request_id"]])
                database.commit()
            for path in (where, f"{where}/status", job["output"]):
                assert server.get(path).status_code == 404


class TestDeleted:
    def test_a_result(self, server: Running, picture: Picture) -> None:
        good = {"image": picture.sent["value"], "text_prompt": "circle"}
        job = completed(server, "/v2/sam3-image", **good)
        where = f"/v2/requests/{job['request_id']}"
        assert server.delete(where, key=BOB).status_code == 404
        assert server.delete(where, key=None).status_code == 401
        answer = server.delete(where)
        assert answer.json() == {"request_id": job["request_id"], "status": "COMPLETED"}
        assert answer.headers["cache-control"] == "no-store"
        for path in (where, f"{where}/status", job["output"]):
            assert server.get(path).status_code == 404
        answer = server.delete(where)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")

    def test_ids_of_another_form(self, server: Running) -> None:
        for name in ("0" * 32, "x", "%00", "é"):
            assert server.delete(f"/v2/requests/{name}").status_code == 404

    def test_a_waiting_job(self) -> None:
        kind = "sam3/visual_segment"
        counted = {"kind": kind, "outcome": "cancelled"}
        with serving(ready=False, job_workers=0) as server:
            job = submitted(server, f"/v2{VISUAL}", image=noise(808))
            answer = server.delete(job["response_url"])
            assert answer.json() == {"request_id": job["request_id"], "status": "QUEUED"}
            assert server.get(job["status_url"]).status_code == 404
            assert server.metric("inference_jobs_total", **counted) == 1


class TestAddresses:
    def submit(self, server: Running, **headers: str) -> str:
        answer = server.post(f"/v2{VISUAL}", {"image": noise(804)}, **headers)
        url = urlsplit(answer.json()["response_url"])
        return f"{url.scheme}://{url.netloc}"

    def test_a_foreign_host_header_is_ignored(self, server: Running) -> None:
        assert self.submit(server, host="evil.example") == server.url
        assert self.submit(server, host="localhost:8080") == "http://localhost:8080"
        assert self.submit(server, x_forwarded_host="evil.example") == server.url

    def test_configured_urls_are_used(self) -> None:
        with serving(ready=False, job_workers=0, public_url="https://masks.example") as server:
            assert self.submit(server) == "https://masks.example"
        with serving(ready=False, job_workers=0, trusted_proxies="127.0.0.0/8") as server:
            forwarded = {"x_forwarded_host": "masks.example", "x_forwarded_proto": "https"}
            assert self.submit(server, **forwarded) == "https://masks.example"


def test_every_response_matches_the_document(
    server: Running, full: tuple[RunningHere, Path], picture: Picture
) -> None:
    document = json.loads(FILE.read_bytes())
    where, name = "/v2/requests/{request_id}", "/v2/requests/{request_id}/files/{name}"
    seen = set()

    def fits(method: str, path: str, answer: httpx.Response) -> httpx.Response:
        assert_fits(document, method, path, answer)
        seen.add((path.removeprefix("/v2/"), answer.status_code))
        return answer

    good = {"image": picture.sent["value"], "text_prompt": "circle"}
    for sent in (good, {**good, "image": "AAAA"}):
        job = fits("post", "/v2/sam3-image", server.post("/v2/sam3-image", sent)).json()
        fits("get", where, ended(server, job))
        fits("get", f"{where}/status", server.get(job["status_url"]))
    job = fits("post", f"/v2{VISUAL}", server.post(f"/v2{VISUAL}", {"image": noise(807)})).json()
    fits("get", where, ended(server, job))
    done = completed(server, "/v2/sam3-image", **good)
    fits("get", name, httpx.get(done["output"]))
    fits("get", name, httpx.get(done["output"] + "x"))
    for key in (None, BOB):
        fits("get", where, server.get(job["response_url"], key=key))
        fits("get", f"{where}/status", server.get(job["status_url"], key=key))
    for key in (ALICE, ALICE, None):
        fits("delete", where, server.delete(job["response_url"], key=key))
    waiting, _ = full
    answers = [waiting.post("/v2/sam3-image", {"image": "AAAA"}) for _ in range(4)]
    assert fits("post", "/v2/sam3-image", answers[-1]).status_code == 429
    for path in KINDS:
        fits("post", path, server.post(path, {}))
        fits("post", path, server.post(path, {}, key=None))
        fits("post", path, waiting.post(path, {"image": "A" * 1_100_000}))
    assert {
        *(("requests/{request_id}", status) for status in (200, 401, 404, 422)),
        *(("requests/{request_id}/status", status) for status in (200, 401, 404, 422)),
        *(("requests/{request_id}/files/{name}", status) for status in (200, 404)),
        *(("sam3-image", status) for status in (200, 400, 401, 429)),
        *(("sam3/concept_segment", status) for status in (401, 413, 422)),
    } <= seen


def test_outcomes_are_counted() -> None:
    counted = {"kind": "sam3/visual_segment", "outcome": "completed"}
    with serving() as server:
        assert server.metric("inference_jobs_total", **counted) == 0
        completed(server, f"/v2{VISUAL}", image=noise(805))
        until(lambda: server.metric("inference_jobs_total", **counted) == 1)


def test_without_a_database_everything_else_works(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with serving(data_dir=str(tmp_path / "file")) as server:
        answer = server.post("/v2/sam3-image", {"image": "AAAA"})
        assert answer.status_code == 502
        assert "database" in answer.json()["error"]
        assert server.post(f"/v2{VISUAL}", {"image": noise(806)}).status_code == 503
        assert server.post(VISUAL, {"image": noise(806)}).status_code == 200
