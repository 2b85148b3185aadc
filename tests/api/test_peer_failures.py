"""Failures of the most widely used server of this kind, which this server must not have.

The docstring of a class describes the failure, its tests what this server does instead.
"""

from __future__ import annotations

import base64
import json
import resource
import socket
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.api.pictures import (
    Gallery,
    Picture,
    center_box,
    click,
    encoded,
    in_base64,
    iou,
    noise,
    plane,
)
from tests.api.rasters import AUTOMATIC, PREDICT, TEXT, post
from tests.api.serving import (
    ALICE,
    BOB,
    CONCEPT,
    SAM2_EMBED,
    SAM3_EMBED,
    VISUAL,
    Running,
    RunningHere,
    serving,
)
from tests.waiting import until

PATHS = (CONCEPT, VISUAL, SAM2_EMBED, SAM3_EMBED)
POINT = {"x": 10, "y": 10, "positive": True}


def request_body(path: str, image: Any, **fields: Any) -> dict[str, Any]:
    """Return a valid request for an endpoint."""
    prompts: dict[str, Any] = {CONCEPT: [{"text": "circle"}], VISUAL: [{"points": [POINT]}]}
    return {"image": image, **({"prompts": prompts[path]} if path in prompts else {}), **fields}


def peak_mib() -> float:
    """Return the peak memory of this process, which includes the server, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forwards(server: Running) -> float:
    """Return the number of batches that the models have processed."""
    return server.metric("inference_batch_size_count")


def png_of(side: int) -> bytes:
    """Return a valid PNG of one colour, with 1 bit per pixel and a few kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    rows = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    pixels = b"".join(rows.compress(row) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


class TestFilesOfTheServer:
    """`type: "file"` reads a file of the server."""

    @pytest.fixture
    def secret(self, tmp_path: Path, picture: Picture) -> Path:
        file = tmp_path / "secret.png"
        file.write_bytes(picture.data)
        return file

    @pytest.mark.parametrize("path", PATHS)
    def test_no_type_names_a_file(self, server: Running, secret: Path, path: str) -> None:
        for kind in ("file", "path", "local", "FILE"):
            response = server.post(path, request_body(path, {"type": kind, "value": str(secret)}))
            assert response.status_code == 422
            assert response.json()["detail"][0]["loc"][:3] == ["body", "image", "type"]
            assert "'url' or 'base64'" in response.json()["detail"][0]["msg"]

    def test_no_value_names_a_file(self, server: Running, secret: Path) -> None:
        for value in (str(secret), f"file://{secret}", f"file://localhost{secret}"):
            for kind in ("url", "base64"):
                response = server.post(VISUAL, request_body(VISUAL, {"type": kind, "value": value}))
                assert response.status_code == 400, response.text
                assert "Could not load input image" in response.json()["message"]
            for path, body in (
                ("/v1/sam3-image", {"image": value, "text_prompt": "circle"}),
                ("/v1/sam-v2-image", {"image": value, "coordinates": [5, 5]}),
                ("/api/sam2_compatible", {"inputs": {"image": value, "text_prompts": ["circle"]}}),
                ("/api/predict", {"data": [value, "circle"]}),
            ):
                assert server.post(path, body).status_code == 400


class TestIdsOfOtherTenants:
    """Another key's `image_id` with a different image is answered with the first image's mask."""

    def test_each_key_has_its_own(self, server: Running, picture: Picture) -> None:
        target = picture.one("red circle")
        flipped = in_base64(encoded(picture.scene.image[:, ::-1]))
        mine = server.answer(
            VISUAL, ALICE, image=picture.sent, image_id="frame", prompts=[click(target)]
        )
        x, y = target.click()
        there = {"points": [{"x": picture.size[1] - 1 - x, "y": y, "positive": True}]}
        body = {"image": flipped, "image_id": "frame", "prompts": [there]}
        response = server.post(VISUAL, body, key=BOB)
        assert response.status_code == 200
        assert response.headers["x-embedding-cache"] == "miss"
        (theirs,) = response.json()["predictions"]
        assert iou(plane(mine["predictions"][0], picture.size), target.mask) > 0.6
        assert iou(plane(theirs, picture.size), target.mask[:, ::-1]) > 0.6

    def test_an_id_of_another_key_is_unknown(self, server: Running, picture: Picture) -> None:
        server.answer(SAM3_EMBED, ALICE, image=picture.sent, image_id="hers")
        for path in PATHS:
            body = request_body(path, None, image_id="hers")
            assert server.post(path, body, key=BOB).status_code == 404

    def test_another_image_under_an_own_id_is_reported(
        self, server: Running, picture: Picture
    ) -> None:
        server.answer(SAM2_EMBED, image=picture.sent, image_id="mine")
        response = server.post(VISUAL, request_body(VISUAL, noise(600), image_id="mine"))
        assert response.headers["x-image-mismatch"] == "true"


class TestBombs:
    """A 12 kB PNG of 10000 x 10000 costs 17 s and 2.9 GB; one of 40000 x 40000 is a 500."""

    @pytest.mark.parametrize("side", [10_000, 40_000])
    def test_too_many_pixels(self, server: Running, side: int) -> None:
        bomb = in_base64(png_of(side))
        assert len(bomb["value"]) < 350_000
        before = forwards(server)
        for path in PATHS:
            response = server.post(path, request_body(path, bomb))
            assert response.status_code == 413
            assert f"{side} x {side}" in response.json()["message"]
        for path, body in (
            ("/v1/sam3-image", {"image": bomb["value"], "text_prompt": "circle"}),
            ("/v1/sam-v2-image", {"image": bomb["value"], "coordinates": [5, 5]}),
        ):
            assert server.post(path, body).status_code == 400
        inputs = {"image": bomb["value"], "text_prompts": ["circle"]}
        assert server.post("/api/sam2_compatible", {"inputs": inputs}).status_code == 413
        for path, fields in ((TEXT, {"prompt": "circle"}), (AUTOMATIC, {})):
            response = post(server, path, base64.b64decode(bomb["value"]), **fields)
            assert response.status_code == 413
        assert forwards(server) == before


class TestTruncation:
    """A truncated JPEG gets 200."""

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
    def test_a_jpeg_that_was_cut_off(self, server: Running, picture: Picture, share: float) -> None:
        jpeg = encoded(picture.scene.image, ".jpg")
        cut = in_base64(jpeg[: int(len(jpeg) * share)])
        for path in PATHS:
            response = server.post(path, request_body(path, cut))
            assert response.status_code == 400
            assert "JPEG file is truncated" in response.json()["message"]


class TestEchoes:
    """The 422 body repeats the whole image in base64."""

    @pytest.mark.parametrize(
        "mistake",
        [
            {"format": "x"},
            {"prompts": 7},
            {"prompts": [{"points": [{}]}]},
            {"image": {"type": "x", "value": "SENTINEL" * 1000}},
            {"image": ["SENTINEL" * 1000]},
            {"image": "SENTINEL" * 1000},
            {"api_key": ["SENTINEL"]},
        ],
    )
    def test_errors_do_not_repeat_the_request(
        self, server: Running, picture: Picture, mistake: dict[str, Any]
    ) -> None:
        for path in PATHS:
            sent = {**request_body(path, picture.sent, image_id=7), **mistake}
            response = server.post(path, sent)
            assert response.status_code == 422
            assert picture.sent["value"][:100] not in response.text
            assert "SENTINEL" not in response.text
            assert len(response.content) < 2000

    def test_other_apis(self, server: Running) -> None:
        image = "SENTINEL" * 1000
        bodies: list[tuple[str, dict[str, Any]]] = [
            ("/v1/sam3-image", {"image": [image]}),
            ("/v1/sam3-image", {"image": image, "threshold": image}),
            ("/api/sam2_compatible", {"inputs": {"image": {"a": image}}}),
            ("/api/predict", {"data": [[image], image]}),
        ]
        for path, body in bodies:
            response = server.post(path, body)
            assert response.status_code == 400
            assert "SENTINEL" not in response.text


class TestFormats:
    """A wrong `format` is a 500, and only after the inference."""

    def test_it_is_refused_before_any_work(self, server: Running, picture: Picture) -> None:
        before = forwards(server)
        for path, wrong in ((CONCEPT, "binary"), (CONCEPT, "x"), (VISUAL, "png"), (VISUAL, 7)):
            response = server.post(path, request_body(path, noise(601), format=wrong))
            assert response.status_code == 422
            assert response.json()["detail"][0]["loc"] == ["body", "format"]
        for path in (TEXT, PREDICT, AUTOMATIC):
            response = post(server, path, picture.data, prompt="circle", output_format="svg")
            assert response.status_code == 400
            assert response.json()["detail"].startswith("Invalid output_format 'svg'")
        assert forwards(server) == before


class TestNumbers:
    """A point that is not a number gets 200."""

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
    def test_coordinates_that_are_not_finite(self, server: Running, number: str) -> None:
        for value in (number, f'"{number}"'):
            for shape in (
                f'"points": [{{"x": {value}, "y": 1, "positive": true}}]',
                f'"box": {{"x": 1, "y": {value}, "width": 5, "height": 5}}',
            ):
                raw = f'{{"image": {json.dumps(noise(602))}, "prompts": [{{{shape}}}]}}'
                assert server.post(VISUAL, raw.encode()).status_code == 422
            box = f'[{{"x0": 1, "y0": {value}, "x1": 5, "y1": 5}}]'
            raw = f'{{"image": {json.dumps(noise(602))}, "prompts": [{{"boxes": {box}}}]}}'
            assert server.post(CONCEPT, raw.encode()).status_code == 422

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "1e10", "-1e300"])
    def test_other_apis(self, server: Running, number: str) -> None:
        image = json.dumps(noise(602)["value"])
        for path, raw in (
            ("/v1/sam3-image", f'{{"image": {image}, "points_input": "[[{number}, 1]]"}}'),
            ("/v1/sam3-image", f'{{"image": {image}, "points_input": [[{number}, 1]]}}'),
            ("/v1/sam-v2-image", f'{{"image": {image}, "coordinates": "[1, {number}]"}}'),
            (
                "/api/sam2_compatible",
                f'{{"inputs": {{"image": {image}, "points": [[1, {number}]], '
                '"point_labels": [1]}}',
            ),
        ):
            assert server.post(path, raw.encode()).status_code == 400
        data = base64.b64decode(noise(602)["value"])
        for field, text in (
            ("point_coords", f"[[{number}, 1]]"),
            ("boxes", f"[1, 1, {number}, 5]"),
        ):
            response = post(server, PREDICT, data, **{field: text})
            assert response.status_code == 400, response.text

    @pytest.mark.parametrize("far", [1e6, 1e9])
    def test_an_enormous_exemplar_costs_no_more(self, server: Running, far: float) -> None:
        """The model's memory grew with the area of the box, to gigabytes."""
        before = peak_mib()
        boxes = [{"x0": -far, "y0": -far, "x1": far, "y1": far}] * 64
        assert len(server.concept(noise(606), *[{"boxes": boxes}] * 4)) == 4
        assert peak_mib() - before < 500

    @pytest.mark.parametrize("far", [-1e9, -1.0, 1e6, 1e9])
    def test_points_outside_the_image_are_valid(self, server: Running, far: float) -> None:
        prompts = [
            {"points": [{"x": far, "y": far, "positive": True}]},
            {"box": {"x": far, "y": far, "width": 10, "height": 10}},
            {"box": {"x": 1, "y": 1, "width": 1e9, "height": 1e9}},
        ]
        assert len(server.visual(noise(603), *prompts)) == 3


class TestCombinedPrompts:
    """A box and points in one request are refused."""

    def test_they_refine_each_other(self, server: Running, picture: Picture) -> None:
        target = picture.one("blue square")
        prompt = {"box": center_box(target), **click(target)}
        (found,) = server.visual(picture.sent, prompt)
        assert iou(plane(found, picture.size), target.mask) > 0.8

    def test_they_can_be_separate_prompts(self, server: Running, picture: Picture) -> None:
        one, other = picture.one("blue square"), picture.one("red square")
        found = server.visual(picture.sent, {"box": center_box(one)}, click(other))
        for prediction, target in zip(found, (one, other), strict=True):
            assert iou(plane(prediction, picture.size), target.mask) > 0.6


class TestLargeBodies:
    """A body of 60 MB is read in full before it is refused."""

    @pytest.mark.parametrize("path", [*PATHS, "/v1/sam3-image", "/v2/sam3-image", "/api/predict"])
    def test_it_is_refused_by_its_announced_length(self, small: Running, path: str) -> None:
        host, port = small.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {ALICE}"
            connection.sendall(f"{head}\r\ncontent-length: {60 << 20}\r\n\r\n".encode())
            status = connection.recv(1000).split(b" ")[1]
        assert status in (b"413", b"400")

    @pytest.fixture(scope="class")
    @classmethod
    def small(cls) -> Any:
        with serving(ready=False, max_body_mb=1) as running:
            yield running


class TestPathsAndMethods:
    """An unknown path or method is a 500."""

    @pytest.mark.parametrize(
        ("path", "word"),
        [
            ("/sam9/segment", "message"),
            ("/sam3/concept_segment/", "message"),
            ("/../../etc/passwd", "message"),
            ("/%2e%2e/%2e%2e/etc/passwd", "message"),
            ("/%00", "message"),
            ("/segment/video", "detail"),
            ("/v1/sam9-image", "error"),
            ("/v2/requests", "error"),
            ("/api/anything", "error"),
        ],
    )
    def test_an_unknown_path(self, server: Running, path: str, word: str) -> None:
        for response in (server.get(path), server.post(path, {})):
            assert response.status_code == 404
            assert "/openapi.json" in response.json()[word]

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "BREW", "GET", "TRACE"])
    def test_an_unknown_method(self, server: Running, method: str) -> None:
        for path in (*PATHS, TEXT, "/v1/sam3-image", "/api/predict"):
            response = server.http.request(method, path, headers={"x-api-key": ALICE})
            if method == "BREW":  # not an HTTP method: refused before routing
                assert response.status_code in (400, 405)
                continue
            assert response.status_code == 405
            assert response.headers["allow"] == "POST"
            assert "POST" in response.text
            assert "/openapi.json" in response.text


class TestModelIds:
    """An unknown or path-like model id is a 500."""

    IDS = ("sam4", "../../etc/passwd", "/etc/passwd", "sam3/../../x", "a\0b", "%2e%2e/x", "🙂", " ")

    @pytest.mark.parametrize("name", IDS)
    def test_it_is_refused_and_nothing_is_loaded(self, server: Running, name: str) -> None:
        loaded = server.get("/models").json()["loaded"]
        response = server.post(CONCEPT, request_body(CONCEPT, noise(604), model_id=name))
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", "model_id"]
        for path in (VISUAL, SAM2_EMBED, SAM3_EMBED):
            response = server.post(path, request_body(path, noise(604), sam2_version_id=name))
            assert response.status_code == 422
            assert response.json()["detail"][0]["loc"] == ["body", "sam2_version_id"]
        data = base64.b64decode(noise(604)["value"])
        if name.strip():  # a blank form field counts as absent
            for path in (TEXT, PREDICT, AUTOMATIC):
                response = post(server, path, data, prompt="x", point_coords=[1, 1], model_id=name)
                assert response.status_code == 400
                assert response.json()["detail"].startswith("Invalid model_id")
                assert "Must be one of" in response.json()["detail"]
        assert server.get("/models").json()["loaded"] == loaded


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningHere]:
    """A server that fetches from public addresses only, as by default."""
    with serving(ready=False) as running:
        yield running


class TestNamesOfPrivateAddresses:
    """A host name that resolves to a private address is fetched."""

    @pytest.mark.parametrize(
        "address",
        ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "10.0.0.1", "169.254.169.254"],
    )
    def test_it_is_not_connected_to(
        self,
        guarded: RunningHere,
        gallery: Gallery,
        address: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        gallery.hang("/inside.png", base64.b64decode(noise(605)["value"]))
        port = gallery.url.rsplit(":", 1)[1]
        resolved = []

        async def resolver(host: str) -> Sequence[str]:
            resolved.append(host)
            return [address]

        lookups = guarded.segmenter.image_loader.fetcher._lookups
        monkeypatch.setattr(lookups, "_resolve", resolver)
        gallery.visits.clear()
        url = f"http://pictures.example.com:{port}/inside.png"
        for path in PATHS:
            response = guarded.post(path, request_body(path, {"type": "url", "value": url}))
            assert response.status_code == 400
            assert "is not on the public internet" in response.json()["message"]
            assert address not in response.text
        assert resolved == ["pictures.example.com"] * len(PATHS)
        assert gallery.visits == []

    def test_localhost_is_not_connected_to(self, guarded: RunningHere, gallery: Gallery) -> None:
        gallery.hang("/inside.png", base64.b64decode(noise(605)["value"]))
        url = gallery.url.replace("127.0.0.1", "localhost") + "/inside.png"
        gallery.visits.clear()
        response = guarded.post(SAM2_EMBED, {"image": {"type": "url", "value": url}})
        assert response.status_code == 400
        assert gallery.visits == []


def test_the_server_still_works(server: RunningHere, picture: Picture) -> None:
    """Runs last in this module."""
    assert len(server.concept(picture.sent, "red circle")[0]) == 2
    until(lambda: server.state.bodies.nbytes == server.state.uploads.nbytes == 0)
