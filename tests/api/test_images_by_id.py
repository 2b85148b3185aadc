"""Embedding requests, images by id, and the headers about the cache and stages."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from schemas.roboflow import EmbeddingResponse
from tests.api.pictures import Gallery, Picture, center_box, click, in_base64, iou, noise, plane
from tests.api.serving import (
    ALICE,
    BOB,
    CONCEPT,
    SAM2_EMBED,
    SAM3_EMBED,
    VISUAL,
    Running,
    steps,
)

TEXT: dict[str, Any] = {"prompts": [{"type": "text", "text": "red circle"}], "format": "rle"}


def cached(response: Any) -> str:
    """Return the value of the cache header."""
    assert response.status_code == 200, response.text
    return str(response.headers["x-embedding-cache"])


class TestEmbedding:
    def test_the_response_has_the_id_of_the_request(
        self, server: Running, picture: Picture
    ) -> None:
        for path in (SAM3_EMBED, SAM2_EMBED):
            answer = server.answer(path, image=picture.sent, image_id="named")
            assert EmbeddingResponse.model_validate(answer).image_id == "named"
            assert 0 <= answer["time"] < 300

    def test_sam2_warms_clicks_only(self, server: Running) -> None:
        image = {"image_id": "sam2-only"}
        first = server.post(SAM2_EMBED, {**image, "image": noise(100)})
        assert cached(first) == "miss"
        assert first.headers["x-model"] == "sam2/demo"
        assert cached(server.post("/sam2/segment_image", image)) == "hit"
        # The other engine encodes the cached file, and then has its own embedding.
        assert cached(server.post(CONCEPT, {**image, **TEXT})) == "miss"
        assert cached(server.post(CONCEPT, {**image, **TEXT})) == "hit"

    def test_sam3_warms_both(self, server: Running) -> None:
        image = {"image_id": "both"}
        assert cached(server.post(SAM3_EMBED, {**image, "image": noise(101)})) == "miss"
        assert cached(server.post(VISUAL, image)) == "hit"
        assert cached(server.post(CONCEPT, {**image, **TEXT})) == "hit"
        assert cached(server.post(SAM3_EMBED, image)) == "hit"

    def test_sam3_reports_a_hit_only_if_nothing_was_encoded(self, server: Running) -> None:
        image = {"image_id": "half-warm", "image": noise(102)}
        assert cached(server.post(CONCEPT, {**image, **TEXT})) == "miss"
        image["sam2_version_id"] = "hiera_tiny"
        assert cached(server.post(SAM3_EMBED, image)) == "miss"
        assert cached(server.post(SAM3_EMBED, image)) == "hit"

    @pytest.mark.parametrize("path", [SAM3_EMBED, SAM2_EMBED])
    def test_without_an_id_a_digest_names_the_image(self, server: Running, path: str) -> None:
        image = noise(103 if path == SAM3_EMBED else 104)
        name = server.answer(path, image=image)["image_id"]
        assert re.fullmatch("[0-9a-f]{64}", name)
        assert server.answer(path, image=image)["image_id"] == name
        path = path.replace(SAM3_EMBED, VISUAL).replace(SAM2_EMBED, "/sam2/segment_image")
        assert cached(server.post(path, {"image": image})) == "hit"
        # "The name to use in later requests."
        assert cached(server.post(path, {"image_id": name})) == "hit"
        assert server.post(CONCEPT, {"image_id": name, **TEXT}).status_code == 200

    def test_a_url_is_fetched_once(self, server: Running, gallery: Gallery) -> None:
        image = noise(105)
        hung = gallery.hang("/once.png", base64.b64decode(image["value"]))
        for fields in ({}, {"image_id": "once"}):
            gallery.visits.clear()
            server.answer(SAM3_EMBED, image=hung, **fields)
            assert gallery.visits == ["/once.png"]


class TestImagesById:
    def test_an_image_is_sent_once(self, server: Running, picture: Picture) -> None:
        server.answer(SAM3_EMBED, image=picture.sent, image_id="again")
        for item in picture.scene.objects[:2]:
            answer = server.answer(
                VISUAL, image_id="again", prompts={"box": center_box(item)}, format="rle"
            )
            assert iou(plane(answer["predictions"][0], picture.size), item.mask) > 0.8
        by_id = server.answer(CONCEPT, image_id="again", **TEXT)
        by_image = server.answer(CONCEPT, image=picture.sent, **TEXT)
        assert by_id["prompt_results"] == by_image["prompt_results"]

    def test_any_request_can_name_an_image(self, server: Running) -> None:
        for number, (path, body) in enumerate([(CONCEPT, TEXT), (VISUAL, {})]):
            name = {"image_id": f"by-request-{number}"}
            assert cached(server.post(path, {**body, **name, "image": noise(110 + number)})) == (
                "miss"
            )
            assert cached(server.post(path, {**body, **name})) == "hit"

    def test_an_image_of_a_url_is_fetched_once(
        self, server: Running, gallery: Gallery, picture: Picture
    ) -> None:
        image = gallery.hang("/by-id.png", picture.data)
        prompt = {"prompts": click(picture.scene.objects[0])}
        first = server.post(VISUAL, {"image": image, "image_id": "of-a-url", **prompt})
        assert cached(first) == "miss"
        assert "fetch" in steps(first)
        gallery.visits.clear()
        later = server.post(VISUAL, {"image": image, "image_id": "of-a-url", **prompt})
        assert cached(later) == "hit"
        assert later.json()["predictions"] == first.json()["predictions"]
        assert server.post(CONCEPT, {"image_id": "of-a-url", **TEXT}).status_code == 200
        assert gallery.visits == []

    @pytest.mark.parametrize(
        ("path", "body"), [(CONCEPT, TEXT), (VISUAL, {}), (SAM3_EMBED, {}), (SAM2_EMBED, {})]
    )
    def test_an_unknown_id(self, server: Running, path: str, body: dict[str, Any]) -> None:
        response = server.post(path, {**body, "image_id": "never-sent"})
        assert response.status_code == 404
        assert "image_id" in response.json()["message"]
        assert "never-sent" not in response.text

    @pytest.mark.parametrize("name", ["a/b?c=d#e", "ünï 🦓", "' OR 1=1", "../../etc", "x" * 256])
    def test_any_text_is_a_valid_id(self, server: Running, name: str) -> None:
        server.answer(SAM3_EMBED, image=noise(120), image_id=name)
        assert cached(server.post(VISUAL, {"image_id": name})) == "hit"

    def test_the_cached_image_is_used_if_another_is_sent(
        self, server: Running, picture: Picture
    ) -> None:
        server.answer(SAM3_EMBED, image=picture.sent, image_id="same")
        prompt = {"prompts": click(picture.scene.objects[0])}
        same = server.post(VISUAL, {"image": picture.sent, "image_id": "same", **prompt})
        assert cached(same) == "hit"
        assert "x-image-mismatch" not in same.headers
        other = server.post(VISUAL, {"image": noise(121), "image_id": "same", **prompt})
        assert cached(other) == "hit"
        assert other.headers["x-image-mismatch"] == "true"
        assert other.json()["predictions"] == same.json()["predictions"]
        # The other engine uses the image of the id as well.
        text = server.post(CONCEPT, {"image": noise(121), "image_id": "same", **TEXT})
        assert text.headers["x-image-mismatch"] == "true"
        plain = server.answer(CONCEPT, image=picture.sent, **TEXT)
        assert text.json()["prompt_results"] == plain["prompt_results"]

    def test_a_cached_image_is_neither_fetched_nor_decoded(
        self, server: Running, gallery: Gallery
    ) -> None:
        server.answer(SAM3_EMBED, image=noise(122), image_id="neither")
        gallery.visits.clear()
        url = {"type": "url", "value": gallery.url + "/neither.png"}
        by_url = server.post(VISUAL, {"image": url, "image_id": "neither"})
        assert cached(by_url) == "hit"
        assert "x-image-mismatch" not in by_url.headers
        assert gallery.visits == []
        broken = in_base64(b"not an image")
        by_bytes = server.post(VISUAL, {"image": broken, "image_id": "neither"})
        assert cached(by_bytes) == "hit"
        assert by_bytes.headers["x-image-mismatch"] == "true"

    def test_an_invalid_image_does_not_take_the_id(self, server: Running) -> None:
        bad = {"image": in_base64(b"not an image"), "image_id": "spoilt"}
        for path, body in ((VISUAL, {}), (CONCEPT, TEXT), (SAM2_EMBED, {})):
            assert server.post(path, {**bad, **body}).status_code == 400
        # The id is still unknown.
        assert server.post(VISUAL, {"image_id": "spoilt"}).status_code == 404
        good = server.post(VISUAL, {"image": noise(123), "image_id": "spoilt"})
        assert good.status_code == 200, good.text
        assert "x-image-mismatch" not in good.headers


class TestImagesWithoutAnId:
    def test_images_are_recognised_by_their_bytes(self, server: Running) -> None:
        image, sam2 = noise(130), "/sam2/segment_image"
        assert cached(server.post(sam2, {"image": image})) == "miss"
        assert cached(server.post(sam2, {"image": image})) == "hit"
        assert cached(server.post(CONCEPT, {"image": image, **TEXT})) == "miss"
        assert cached(server.post(CONCEPT, {"image": image, **TEXT})) == "hit"
        prefixed = {**image, "value": "data:image/png;base64," + image["value"]}
        assert cached(server.post(sam2, {"image": prefixed})) == "hit"

    def test_the_versions_of_the_demo_share_an_embedding(self, server: Running) -> None:
        image = noise(131)
        large = server.post(VISUAL, {"image": image, "sam2_version_id": "hiera_large"})
        assert cached(large) == "miss"
        tiny = server.post(VISUAL, {"image": image, "sam2_version_id": "hiera_tiny"})
        assert cached(tiny) == "hit"


class TestTenants:
    def test_another_keys_ids_are_unknown(self, server: Running, picture: Picture) -> None:
        server.answer(SAM3_EMBED, ALICE, image=picture.sent, image_id="private")
        assert server.post(VISUAL, {"image_id": "private"}, key=ALICE).status_code == 200
        for path, body in ((VISUAL, {}), (CONCEPT, TEXT), (SAM3_EMBED, {})):
            stranger = server.post(path, {**body, "image_id": "private"}, key=BOB)
            assert stranger.status_code == 404

    def test_another_keys_ids_cannot_be_poisoned(self, server: Running, picture: Picture) -> None:
        server.answer(SAM2_EMBED, BOB, image=noise(140), image_id="poison")
        first = server.post(VISUAL, {"image": picture.sent, "image_id": "poison"}, key=ALICE)
        assert cached(first) == "miss"
        assert "x-image-mismatch" not in first.headers

    def test_another_keys_images_cannot_be_probed(self, server: Running) -> None:
        image = noise(141)
        assert cached(server.post(VISUAL, {"image": image}, key=ALICE)) == "miss"
        assert cached(server.post(VISUAL, {"image": image}, key=BOB)) == "miss"

    def test_logits_are_separate_per_tenant(self, server: Running, picture: Picture) -> None:
        item = picture.scene.objects[0]
        (first,) = click(item)["points"]
        second = [first, {"x": 3, "y": 3, "positive": False}]
        body = {"image": picture.sent, "image_id": "logits", "format": "rle"}
        one = {"prompts": {"points": [first]}, "save_logits_to_cache": True}
        server.answer(VISUAL, ALICE, **body, **one)
        two = {**body, "prompts": {"points": second}}
        plain = server.answer(VISUAL, BOB, **two)
        loaded = server.answer(VISUAL, BOB, **two, load_logits_from_cache=True)
        assert loaded["predictions"] == plain["predictions"]


class TestTimings:
    def test_every_stage_is_reported(self, server: Running) -> None:
        image = noise(150)
        cold = server.post(VISUAL, {"image": image})
        assert list(steps(cold)) == [
            *("decode", "queue", "encode", "decode-prompts", "masks", "serialise")
        ]
        assert steps(cold)["encode"] > 0
        warm = server.post(VISUAL, {"image": image})
        assert "encode" not in steps(warm)
        assert {"queue", "decode-prompts", "masks", "serialise"} <= steps(warm).keys()
        text = server.post(CONCEPT, {"image": image, **TEXT})
        assert steps(text).keys() == steps(cold).keys()

    def test_their_sum_is_within_the_requests_time(self, server: Running) -> None:
        response = server.post(VISUAL, {"image": noise(151)})
        assert sum(steps(response).values()) / 1e3 <= response.elapsed.total_seconds()

    def test_each_request_has_an_id(self, server: Running) -> None:
        answers = [server.post(VISUAL, {"image": noise(152)}), server.get("/models")]
        answers += [server.post(VISUAL, {}), server.post(VISUAL, {}, key=None)]
        identities = {answer.headers["x-request-id"] for answer in answers}
        assert len(identities) == 4
