"""`DELETE /images/{image_id}`, and `replace` of the embedding requests."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.api.pictures import Picture, click, iou, noise, plane
from tests.api.serving import (
    ALICE,
    BOB,
    CONCEPT,
    SAM2_EMBED,
    SAM3_EMBED,
    VISUAL,
    Running,
    RunningHere,
)
from tests.api.test_jobs import ended, submitted

TEXT: dict[str, Any] = {"prompts": [{"text": "red circle"}], "format": "rle"}


@pytest.fixture(scope="session")
def server(listening: RunningHere) -> RunningHere:
    """A server behind a socket: in a path, an id is encoded and decoded once."""
    return listening


def forget(server: Running, name: str, key: str | None = ALICE) -> httpx.Response:
    headers = {} if key is None else {"x-api-key": key}
    return server.http.delete(f"/images/{quote(name, safe='')}", headers=headers)


def forgotten(server: Running, name: str) -> bool:
    answer = forget(server, name)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body == {"image_id": name, "forgotten": body["forgotten"]}
    return bool(body["forgotten"])


@pytest.mark.parametrize("name", ["scene", "a/b?c=d#e", "ünï 🦓", "../../etc", "%2F", "x" * 256])
def test_an_image_is_forgotten_under_any_name(server: Running, name: str) -> None:
    server.answer(SAM3_EMBED, image=noise(950), image_id=name)
    assert forgotten(server, name)
    assert not forgotten(server, name)
    for path, body in ((VISUAL, {}), (CONCEPT, TEXT), (SAM3_EMBED, {})):
        assert server.post(path, {**body, "image_id": name}).status_code == 404


def test_the_name_is_free_for_another_image(server: Running, picture: Picture) -> None:
    server.answer(SAM2_EMBED, image=noise(951), image_id="free")
    assert forgotten(server, "free")
    item = picture.one("red square")
    answer = server.post(
        VISUAL,
        {"image": picture.sent, "image_id": "free", "prompts": click(item), "format": "rle"},
    )
    assert "x-image-mismatch" not in answer.headers
    assert iou(plane(answer.json()["predictions"][0], picture.size), item.mask) > 0.8


def test_only_by_its_tenant(server: Running) -> None:
    server.answer(SAM2_EMBED, ALICE, image=noise(952), image_id="mine")
    answer = forget(server, "mine", BOB)
    assert (answer.status_code, answer.json()["forgotten"]) == (200, False)
    assert forget(server, "mine", None).status_code == 401
    assert forget(server, "mine", "wrong").status_code == 401
    assert server.post(VISUAL, {"image_id": "mine"}).status_code == 200


def test_an_accepted_job_keeps_its_image(server: Running, picture: Picture) -> None:
    server.answer(SAM2_EMBED, image=picture.sent, image_id="kept")
    item = picture.one("red square")
    asked: dict[str, Any] = {"image_id": "kept", "prompts": [click(item)], "format": "rle"}
    job = submitted(server, f"/v2{VISUAL}", **asked)
    server.answer(SAM2_EMBED, image=noise(953), image_id="kept", replace=True)
    found = ended(server, job)
    assert "x-image-mismatch" not in found.headers
    assert iou(plane(found.json()["output"]["predictions"][0], picture.size), item.mask) > 0.8


@pytest.mark.parametrize("path", [SAM2_EMBED, SAM3_EMBED])
def test_an_id_is_given_to_another_image(server: Running, picture: Picture, path: str) -> None:
    name = f"replaced {path}"
    server.answer(SAM3_EMBED, image=noise(954), image_id=name)
    kept = server.post(path, {"image": picture.sent, "image_id": name})
    assert kept.headers["x-image-mismatch"] == "true"
    done = server.post(path, {"image": picture.sent, "image_id": name, "replace": True})
    assert done.status_code == 200, done.text
    assert done.json()["image_id"] == name
    assert "x-image-mismatch" not in done.headers
    item = picture.one("red square")
    answer = server.answer(VISUAL, image_id=name, prompts=click(item), format="rle")
    assert iou(plane(answer["predictions"][0], picture.size), item.mask) > 0.8
    found = server.answer(CONCEPT, image_id=name, **TEXT)["prompt_results"][0]["predictions"]
    assert len(found) == len(picture.matching("red circle"))


@pytest.mark.parametrize("missing", ["image", "image_id"])
def test_replacing_needs_an_image_and_its_id(server: Running, missing: str) -> None:
    body = {"image": noise(955), "image_id": "x", "replace": True}
    del body[missing]
    answer = server.post(SAM2_EMBED, body)
    assert answer.status_code == 422
    assert "send both" in answer.text


def test_a_broken_image_replaces_nothing(server: Running) -> None:
    server.answer(SAM2_EMBED, image=noise(956), image_id="whole")
    bad = {"image": {"type": "base64", "value": "AAAA"}, "image_id": "whole", "replace": True}
    assert server.post(SAM2_EMBED, bad).status_code == 400
    again = server.post("/sam2/segment_image", {"image_id": "whole"})
    assert again.headers["x-embedding-cache"] == "hit"
