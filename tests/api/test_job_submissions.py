"""Job submissions: stored images, headers of results, and idempotency keys."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.api.pictures import Picture, click, iou, noise, plane
from tests.api.serving import (
    ALICE,
    BOB,
    CONCEPT,
    SAM2_EMBED,
    SAM3_EMBED,
    TIMEOUT,
    VISUAL,
    Running,
    RunningHere,
    in_process,
    until,
)
from tests.api.stored_keys import fast_polling, keyed
from tests.api.test_jobs import completed, ended, submitted

TEXT: dict[str, Any] = {"prompts": [{"text": "red circle"}], "format": "rle"}
NAME = "Idempotency-Key"


@pytest.fixture(scope="module")
def server() -> Any:
    with in_process() as running:
        yield running


class TestImagesById:
    def test_a_job_has_its_image_after_a_restart(self, tmp_path: Path, picture: Picture) -> None:
        where = {"data_dir": str(tmp_path)}
        item = picture.one("red square")
        asked: dict[str, Any] = {"image_id": "scene", "prompts": [click(item)], "format": "rle"}
        with in_process(**where, job_workers=0) as before:
            before.answer(SAM3_EMBED, image=picture.sent, image_id="scene")
            visual = submitted(before, f"/v2{VISUAL}", **asked)
            concept = submitted(before, f"/v2{CONCEPT}", image_id="scene", **TEXT)
        with in_process(**where) as after:
            found = ended(after, visual).json()["output"]["predictions"]
            assert iou(plane(found[0], picture.size), item.mask) > 0.8
            found = ended(after, concept).json()["output"]["prompt_results"][0]["predictions"]
            assert len(found) == len(picture.matching("red circle"))
            # The job does not make the id known to later requests.
            assert after.post(VISUAL, asked).status_code == 404

    def test_the_embedding_is_used_while_the_id_names_the_image(
        self, server: Running, picture: Picture
    ) -> None:
        server.answer(SAM3_EMBED, image=picture.sent, image_id="embedded")
        job = ended(server, submitted(server, f"/v2{VISUAL}", image_id="embedded"))
        assert job.headers["x-embedding-cache"] == "hit"
        assert "x-image-mismatch" not in job.headers

    @pytest.mark.parametrize("path", [VISUAL, CONCEPT])
    def test_an_id_without_a_file_is_refused_at_once(self, picture: Picture, path: str) -> None:
        with in_process(image_cache_mb=0, job_workers=0) as server:
            server.answer(SAM3_EMBED, image=picture.sent, image_id="embedded")
            assert server.post(VISUAL, {"image_id": "embedded"}).status_code == 200
            asked = TEXT if path == CONCEPT else {}
            for name in ("embedded", "never-sent"):
                answer = server.post(f"/v2{path}", {**asked, "image_id": name})
                assert answer.status_code == 404
                assert "Send the image along with the id" in answer.json()["message"]
            assert server.metric("inference_jobs_queued") == 0

    def test_other_tenants_ids_are_unknown(self, server: Running, picture: Picture) -> None:
        server.answer(SAM2_EMBED, ALICE, image=picture.sent, image_id="mine")
        assert server.post(f"/v2{VISUAL}", {"image_id": "mine"}, key=BOB).status_code == 404


class TestResultHeaders:
    def test_the_result_has_the_headers_of_the_synchronous_response(
        self, server: Running, picture: Picture
    ) -> None:
        server.answer(SAM3_EMBED, image=picture.sent, image_id="first")
        for image, differs in ((picture.sent, False), (noise(900), True)):
            asked: dict[str, Any] = {"image": image, "image_id": "first", "format": "rle"}
            now = server.post(VISUAL, asked)
            later = ended(server, submitted(server, f"/v2{VISUAL}", **asked))
            assert later.json()["output"]["predictions"] == now.json()["predictions"]
            for name in ("x-model", "x-embedding-cache", "x-image-mismatch"):
                assert later.headers.get(name) == now.headers.get(name), name
            assert later.headers.get("x-image-mismatch") == ("true" if differs else None)
            assert set(_stages(later)) == set(_stages(now))

    def test_a_result_file_has_them_too(self, server: Running, picture: Picture) -> None:
        server.answer(SAM2_EMBED, image=picture.sent, image_id="second")
        asked: dict[str, Any] = {
            "image": noise(901),
            "image_id": "second",
            "format": "binary",
            "sam2_version_id": "hiera_large",
        }
        job = completed(server, f"/v2{VISUAL}", **asked)
        answer = server.http.get(job["output"])
        assert answer.headers["x-image-mismatch"] == "true"
        assert answer.headers["x-model"] == "sam2/demo"
        assert answer.headers["x-embedding-cache"] == "hit"
        assert "decode-prompts" in _stages(answer)

    def test_a_job_that_is_not_done_has_none(self, picture: Picture) -> None:
        with in_process(job_workers=0) as server:
            job = submitted(server, f"/v2{VISUAL}", image=picture.sent)
            headers = server.get(job["response_url"]).headers
            assert not {"x-model", "x-embedding-cache", "x-image-mismatch"} & set(headers)


def _stages(response: Any) -> list[str]:
    return [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]


class TestIdempotencyKey:
    @pytest.mark.parametrize("path", ["/v2/sam3-image", f"/v2{VISUAL}"])
    def test_a_repeated_submission_is_the_same_job(self, server: Running, path: str) -> None:
        body: dict[str, Any] = {"image": noise(910)}
        if "sam3-image" in path:
            body = {"image": body["image"]["value"], "text_prompt": "circle"}
        named = {NAME.lower().replace("-", "_"): f"one {path}"}
        answers = [server.post(path, {**body, "api_key": key}, **named) for key in (ALICE, "")]
        assert [answer.status_code for answer in answers] == [200, 200]
        first, second = (answer.json() for answer in answers)
        assert first == second
        assert "idempotent-replayed" not in answers[0].headers
        assert answers[1].headers["idempotent-replayed"] == "true"
        other = server.post(path, body, key=BOB, **named)
        assert other.json()["request_id"] != first["request_id"]
        ended(server, first)
        assert server.post(path, body, **named).json() == first

    @pytest.mark.parametrize("path", ["/v2/sam-v2-image", f"/v2{VISUAL}"])
    def test_misuse_is_refused(self, server: Running, path: str) -> None:
        is_segmind = path == "/v2/sam-v2-image"
        first, other = noise(911), noise(912)
        one: dict[str, Any]
        two: dict[str, Any]
        if is_segmind:
            one = {"image": first["value"], "coordinates": [1, 1]}
            two = {**one, "coordinates": [2, 2]}
        else:
            one, two = {"image": first}, {"image": other}
        name = f"misused {path}"
        for key, body in ((name, one), (name.ljust(256, "k"), one)):
            answer = server.post(path, body, idempotency_key=key)
            assert answer.status_code == 200, answer.text
        for key, body in ((name, two), ("", one), ("k" * 257, one)):
            answer = server.post(path, body, idempotency_key=key)
            assert answer.status_code == (400 if is_segmind else 422)
            assert NAME in answer.text

    def test_a_repetition_needs_no_cached_image(self, picture: Picture) -> None:
        with in_process() as server:
            server.answer(SAM2_EMBED, image=picture.sent, image_id="evicted")
            asked = {"image_id": "evicted"}
            first = server.post(f"/v2{VISUAL}", asked, idempotency_key="a").json()
            server.segmenter.forget()
            assert server.post(f"/v2{VISUAL}", asked, idempotency_key="a").json() == first
            answer = server.post(f"/v2{VISUAL}", asked, idempotency_key="b")
            assert answer.status_code == 404


class TestDeadline:
    def test_a_submission_that_is_answered_504_costs_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The database is locked for longer than the request may take."""
        fast_polling(monkeypatch)
        with keyed(tmp_path, request_timeout=1.0) as running:
            server, (key, made) = running.server, running.create(credits=9)
            jobs = server.state.jobs
            with closing(sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)) as other:
                other.execute("begin immediate")
                late = server.post(f"/v2{VISUAL}", {"image": noise(920)}, key=key)
                assert late.status_code == 504
                other.execute("rollback")
            # A busy machine may take longer than a second for what follows.
            patient = server.state.settings.model_copy(update={"request_timeout": TIMEOUT})
            monkeypatch.setattr(server.state, "settings", patient)
            until(lambda: not jobs._submissions.pending)
            with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as database:
                stored = database.execute("select count(*) from inference_jobs").fetchone()
            assert stored == (0,)
            assert running.credits_left(made) == 9
            done = server.post(f"/v2{VISUAL}", {"image": noise(920)}, key=key)
            assert done.headers["x-credits-remaining"] == "6"

    def test_a_failed_response_undoes_the_job(
        self, server: RunningHere, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The job is stored, and then the response fails."""

        def fails(*_: object) -> str:
            raise RuntimeError

        monkeypatch.setattr("inference_server.api.jobs.submission.public_url", fails)
        before = server.metric("inference_jobs_total")
        assert server.post(f"/v2{VISUAL}", {"image": noise(921)}).status_code == 500
        until(lambda: not server.state.jobs._submissions.pending)
        assert server.metric("inference_jobs_queued") == 0
        assert server.metric("inference_jobs_total") - before <= 1


class TestSize:
    @pytest.mark.parametrize(("path", "status"), [(f"/v2{VISUAL}", 413), ("/v2/sam3-image", 400)])
    def test_a_job_that_can_never_fit_is_refused_for_good(self, path: str, status: int) -> None:
        with in_process(job_storage_mb=1, job_workers=0) as server:
            large = noise(930, (600, 600))
            body = {"image": large if status == 413 else large["value"], "text_prompt": "x"}
            answer = server.post(path, body)
            assert answer.status_code == status
            assert "at most 0.5 MiB" in answer.text
            assert "INFERENCE_JOB_STORAGE_SHARE" in answer.text
            assert "retry-after" not in answer.headers
