"""Endpoints about the server itself, and properties of all responses."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from inference_server import __version__
from inference_server.api.headers import HEADERS
from inference_server.demo import WEIGHTS
from inference_server.engines.catalog import ModelKey
from inference_server.engines.loaded_weights import LoadedWeights
from inference_server.engines.registry import ModelRegistry
from inference_server.errors import ModelUnavailableError
from schemas.system import Health, ModelsResponse, ServerInfo
from tests.api.pictures import Picture, noise
from tests.api.serving import CONCEPT, VISUAL, Running, serving, until


class TestInformation:
    def test_root(self, server: Running) -> None:
        response = server.get("/", key=None)
        info = ServerInfo.model_validate(response.json())
        assert (info.name, info.version) == ("inference-server", __version__)
        for link in info.links.values():
            assert server.get(link).status_code == 200, link

    def test_alive_and_ready(self, server: Running) -> None:
        for path in ("/livez", "/readyz", "/health"):
            response = server.get(path, key=None)
            assert response.json() == {"status": "ok", "version": __version__}
            assert response.headers["content-type"] == "application/json"

    def test_models_in_samgeos_format(self, server: Running) -> None:
        assert server.post("/sam2/segment_image", {"image": noise(501)}).is_success
        answer = server.get("/models").json()
        ModelsResponse.model_validate(answer)
        assert answer["models"] == {
            "sam2": [
                *("sam2-hiera-tiny", "sam2-hiera-small"),
                *("sam2-hiera-base-plus", "sam2-hiera-large"),
            ],
            "sam": ["vit_b", "vit_l", "vit_h"],
            "sam3": ["facebook/sam3"],
        }
        assert ["sam3", "facebook/sam3"] in answer["loaded"]
        assert ["sam2", "sam2-hiera-large"] in answer["loaded"]
        # Demo weights are reported as such.
        assert {checkpoint["source"] for checkpoint in answer["checkpoints"]} == {"demo"}

    def test_models_report_their_compute_settings(self) -> None:
        changes: dict[str, Any] = {"device": "cpu", "dtype": "float32", "threads": 3}
        changes |= {"encode_batch": 4, "embedding_dtype": "float16"}
        with serving(ready=False, **changes) as server:
            checkpoints = server.get("/models").json()["checkpoints"]
            assert len(checkpoints) == 8
            for checkpoint in checkpoints:
                compute = [checkpoint[name] for name in ("device", "dtype", "cache_dtype")]
                assert compute == ["cpu", "float32", "float16"]
                effort = [checkpoint[f] for f in ("threads", "encode_batch", "decode_batch")]
                assert effort == [3, 4, 1]

    def test_compute_settings_are_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        changes: dict[str, Any] = {"device": "cpu", "dtype": "float32", "threads": 3}
        changes |= {"decode_batch": 4, "embedding_dtype": "float16", "embedding_cache_mb": 77}
        with (
            caplog.at_level(logging.INFO, "inference_server"),
            serving(ready=False, **changes),
        ):
            pass
        assert (
            "Computing on cpu in float32; 3 CPU threads; encode batch 1, decode batch 4; "
            "embedding cache in float16: 77 MiB\n"
        ) in caplog.text

    def test_head(self, server: Running) -> None:
        response = server.http.head("/livez")
        assert (response.status_code, response.content) == (200, b"")


class TestMetrics:
    def test_all_metrics_change(self, server: Running) -> None:
        image, text = noise(500), {"prompts": [{"text": "dog"}, {"text": "cat"}]}
        names: list[tuple[str, dict[str, str]]] = [
            ("inference_requests_total", {"route": VISUAL, "status": "200"}),
            ("inference_requests_total", {"route": CONCEPT, "status": "422"}),
            ("inference_failures_total", {"route": CONCEPT, "reason": "validation"}),
            ("inference_failures_total", {"route": VISUAL, "reason": "auth"}),
            ("inference_failures_total", {"route": VISUAL, "reason": "image"}),
            ("inference_failures_total", {"route": VISUAL, "reason": "unknown_image"}),
            ("inference_request_seconds_count", {"route": VISUAL}),
            ("inference_request_seconds_sum", {"route": CONCEPT}),
            ("inference_batch_size_sum", {"lane": "sam3 encode"}),
            ("inference_batch_size_sum", {"lane": "sam3 decode"}),
            ("inference_batch_size_count", {"lane": "sam2 encode"}),
            ("inference_batch_size_count", {"lane": "sam2 decode"}),
            ("inference_embedding_cache_hits_total", {}),
            ("inference_embedding_cache_misses_total", {}),
            ("inference_embedding_cache_bytes", {}),
        ]
        stages = ("decode", "queue", "encode", "decode-prompts", "masks", "serialise")
        names += [("inference_stage_seconds_count", {"stage": stage}) for stage in stages]
        before = [server.metric(name, **labels) for name, labels in names]
        for _ in range(2):
            sam2 = {"image": image, "sam2_version_id": "hiera_tiny"}
            assert server.post(VISUAL, sam2).is_success
            assert server.post(CONCEPT, {"image": image, **text}).is_success
        server.post(CONCEPT, {})
        server.post(VISUAL, {"image": image}, key="wrong")
        server.post(VISUAL, {"image": {"type": "base64", "value": "bm8="}})
        server.post(VISUAL, {"image_id": "nobody's"})
        after = [server.metric(name, **labels) for name, labels in names]
        still = [n for n, b, a in zip(names, before, after, strict=True) if not a > b]
        assert still == []

    def test_evictions(self) -> None:
        with serving(embedding_cache_mb=1) as server:
            for seed in range(510, 530):
                assert server.post(VISUAL, {"image": noise(seed, (8, 8))}).is_success
            assert server.metric("inference_embedding_cache_evictions_total") > 0
            assert server.metric("inference_embedding_cache_bytes") <= 2**20
            # The first one is evicted, the last one is cached.
            last = server.post(VISUAL, {"image": noise(529, (8, 8))})
            assert last.headers["x-embedding-cache"] == "hit"
            first = server.post(VISUAL, {"image": noise(510, (8, 8))})
            assert first.headers["x-embedding-cache"] == "miss"

    def test_the_prometheus_format(self, server: Running) -> None:
        response = server.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        assert "# HELP inference_requests_total Requests by route and status." in response.text
        # Paths that do not exist make no new series.
        server.get("/no/such/path/at/all")
        assert "/no/such" not in server.get("/metrics").text


def test_any_name_of_weights_is_sent_in_a_header(tmp_path: Path) -> None:
    """Directory names allow characters that headers do not."""
    shutil.copytree(WEIGHTS / "sam2", tmp_path / "\u6a21\u578b \n1")
    with serving(sam2_weights=str(tmp_path / "\u6a21\u578b \n1")) as server:
        response = server.post("/sam2/segment_image", {"image": noise(560)})
        assert response.status_code == 200, response.text
        assert unquote(response.headers["x-model"]) == "sam2/\u6a21\u578b \n1"


class TestUnknown:
    @pytest.mark.parametrize("path", ["/nothing", "/sam3", "/sam3/concept_segment/x", "/%00"])
    def test_paths(self, server: Running, path: str) -> None:
        for response in (server.get(path), server.post(path, {})):
            assert response.status_code == 404
            assert "/openapi.json" in response.json()["message"]
            assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])

    def test_methods(self, server: Running) -> None:
        for method, path in [("GET", CONCEPT), ("DELETE", VISUAL), ("POST", "/livez")]:
            response = server.http.request(method, path)
            assert response.status_code == 405
            assert set(response.json()) == {"message", "code"}
            assert response.headers["allow"]
            assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])

    @pytest.mark.parametrize(
        ("path", "logged"),
        [
            ("/nothing?api_key=inf_s3cret", "GET /nothing 404"),
            ("/nothing%3Fapi_key=inf_s3cret", "GET /nothing 404"),
            ("/nothing&api_key=inf_s3cret", "GET /nothing 404"),
            ("/a%0d%0aINFO%20forged%1b[31m", "GET /a%0D%0AINFO%20forged%1B%5B31m 404"),
            ("/" + "x" * 5000 + "inf_s3cret", f"GET /{'x' * 99}… 404"),
            ("/sam3/visual_segment?api_key=inf_s3cret", "GET /sam3/visual_segment 405"),
        ],
    )
    def test_they_are_logged_without_secrets(
        self, server: Running, caplog: pytest.LogCaptureFixture, path: str, logged: str
    ) -> None:
        with caplog.at_level(logging.INFO, "inference_server.access"):
            identity = server.get(path).headers["x-request-id"]
            # The line is written before the response is sent.
            records = [r for r in caplog.records if r.name == "inference_server.access"]
            (line,) = [r.message for r in records if r.__dict__["request_id"] == identity]
        assert re.fullmatch(rf"{re.escape(logged)} \d+ ms", line)


class TestCompression:
    @pytest.fixture(scope="class")
    @classmethod
    def asked(cls, picture: Picture) -> dict[str, Any]:
        points = [item.click() for item in picture.scene.objects]
        prompts = [{"points": [{"x": x, "y": y, "positive": True}]} for x, y in points]
        return {"image": picture.sent, "prompts": prompts}

    def raw(self, server: Running, asked: Any, **headers: str) -> tuple[httpx.Headers, bytes]:
        sent = {"x-api-key": "inf_alice-s3cret", **headers}
        with server.http.stream("POST", VISUAL, json=asked, headers=sent) as response:
            return response.headers, b"".join(response.iter_raw())

    def test_if_the_client_accepts_it(self, server: Running, asked: Any) -> None:
        headers, body = self.raw(server, asked, **{"accept-encoding": "gzip"})
        assert headers["content-encoding"] == "gzip"
        assert "accept-encoding" in headers["vary"].lower()
        assert int(headers["content-length"]) == len(body)
        plain_headers, plain = self.raw(server, asked, **{"accept-encoding": "identity"})
        assert "content-encoding" not in plain_headers
        assert "accept-encoding" in plain_headers["vary"].lower()
        unpacked = gzip.decompress(body)
        assert unpacked.split(b'"time"')[0] == plain.split(b'"time"')[0]
        assert len(body) < len(plain)

    def test_compressed_formats_are_not_compressed_again(self, server: Running, asked: Any) -> None:
        binary = {**asked, "format": "binary"}
        headers, _ = self.raw(server, binary, **{"accept-encoding": "gzip"})
        assert "content-encoding" not in headers

    @pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "deflate, gzip;q=0.0"])
    def test_not_otherwise(self, server: Running, asked: Any, accepted: str) -> None:
        headers, _ = self.raw(server, asked, **{"accept-encoding": accepted})
        assert "content-encoding" not in headers

    @pytest.mark.parametrize("accepted", ["br, gzip;q=0.5", "GZIP", "*"])
    def test_all_ways_to_accept_it(self, server: Running, asked: Any, accepted: str) -> None:
        headers, _ = self.raw(server, asked, **{"accept-encoding": accepted})
        assert headers["content-encoding"] == "gzip"


class TestCors:
    ORIGIN = "https://app.example"

    def test_preflight(self, server: Running) -> None:
        response = server.http.options(
            CONCEPT,
            headers={
                "origin": self.ORIGIN,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type, x-api-key",
            },
        )
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "*"
        assert "POST" in response.headers["access-control-allow-methods"]
        allowed = response.headers["access-control-allow-headers"].lower()
        assert {"authorization", "content-type", "x-api-key"} <= set(allowed.split(", "))
        assert "access-control-allow-credentials" not in response.headers

    def test_responses_and_errors_are_readable(self, server: Running) -> None:
        for key, body in [("inf_alice-s3cret", {"image": noise(540)}), ("wrong", {}), (None, {})]:
            response = server.post(VISUAL, body, key=key, origin=self.ORIGIN)
            assert response.headers["access-control-allow-origin"] == "*"
            exposed = response.headers["access-control-expose-headers"].lower().split(", ")
            assert set(exposed) >= set(HEADERS)
            assert "access-control-allow-credentials" not in response.headers

    def test_only_configured_origins(self) -> None:
        with serving(ready=False, cors_origins="https://one.example, https://two.example") as s:
            for origin, allowed in [("https://two.example", True), (self.ORIGIN, False)]:
                response = s.get("/livez", origin=origin)
                assert response.status_code == 200
                header = response.headers.get("access-control-allow-origin")
                assert header == (origin if allowed else None)


class TestReadiness:
    def test_a_failed_load_is_retried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The server retries a failed load by itself."""
        load = ModelRegistry._with_queues
        failures = iter([ModelUnavailableError("The hub is unavailable."), OSError("what?")])
        seen = asyncio.Event()
        loops: list[asyncio.AbstractEventLoop] = []

        async def flaky(self: ModelRegistry, key: ModelKey, weights: Any) -> LoadedWeights:
            if key.family == "sam3":
                for failure in failures:
                    raise failure
                loops.append(asyncio.get_running_loop())
                await seen.wait()
            return await load(self, key, weights)

        monkeypatch.setattr(ModelRegistry, "_with_queues", flaky)
        preload = "sam3:facebook/sam3,sam2:hiera_tiny"
        with serving(ready=False, load_pause=0.3, preload=preload) as server:
            until(lambda: server.get("/readyz", key=None).json()["status"] == "failed")
            message = server.get("/readyz", key=None).json()["message"]
            assert message in ("The hub is unavailable.", server.state.failure)
            # The other model was loaded.
            until(lambda: server.get("/models").json()["loaded"])
            until(lambda: loops)
            loops[0].call_soon_threadsafe(seen.set)
            until(lambda: server.get("/readyz", key=None).status_code == 200)
            assert ["sam3", "facebook/sam3"] in server.get("/models").json()["loaded"]

    def test_a_request_retries_a_failed_load(self, monkeypatch: pytest.MonkeyPatch) -> None:
        load = ModelRegistry._with_queues
        failures = iter([ModelUnavailableError("The hub is unavailable.")])

        async def flaky(self: ModelRegistry, key: ModelKey, weights: Any) -> LoadedWeights:
            if key.family == "sam3":
                for failure in failures:
                    raise failure
            return await load(self, key, weights)

        monkeypatch.setattr(ModelRegistry, "_with_queues", flaky)
        with serving(ready=False, preload="") as server:
            until(lambda: server.get("/readyz", key=None).json()["status"] == "failed")
            text = {"image": noise(552), "prompts": [{"text": "dog"}]}
            assert server.post(CONCEPT, text).status_code == 200
            until(lambda: server.get("/readyz", key=None).status_code == 200)

    def test_loading(self, monkeypatch: pytest.MonkeyPatch) -> None:
        load = ModelRegistry.load_configured
        go_on = asyncio.Event()

        loops: list[asyncio.AbstractEventLoop] = []

        async def slowly(self: ModelRegistry) -> None:
            loops.append(asyncio.get_running_loop())
            await go_on.wait()
            await load(self)

        monkeypatch.setattr(ModelRegistry, "load_configured", slowly)
        with serving(ready=False) as server:
            response = server.get("/readyz", key=None)
            assert response.status_code == 503
            assert Health.model_validate(response.json()).status == "loading"
            assert server.get("/livez", key=None).status_code == 200
            # Requests that arrive meanwhile wait for the model.
            assert server.post(VISUAL, {"image": noise(550)}).status_code == 200
            server.http.get("/livez")
            until(lambda: loops)
            loops[0].call_soon_threadsafe(go_on.set)
            server.until_ready()

    def test_bad_weights(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The server stays up, and reports the problem and its remedy."""
        (tmp_path / "sam2.1_hiera_tiny.pt").write_bytes(b"not a checkpoint")
        preload = "sam3:facebook/sam3,sam2:hiera_tiny"
        with serving(ready=False, sam2_weights=str(tmp_path), preload=preload) as server:
            until(lambda: server.get("/readyz", key=None).json()["status"] == "failed")
            response = server.get("/readyz", key=None)
            assert response.status_code == 503
            health = Health.model_validate(response.json())
            assert "INFERENCE_SAM2_WEIGHTS" in str(health.message)
            assert "Download it again" in str(health.message)
            assert "INFERENCE_SAM2_WEIGHTS" in caplog.text
            assert server.get("/livez", key=None).status_code == 200
            image = {"image": noise(551)}
            refused = server.post(VISUAL, {**image, "sam2_version_id": "hiera_tiny"})
            assert refused.status_code == 503
            assert "sam2.1_hiera_tiny.pt" in refused.json()["message"]
            assert str(tmp_path) not in refused.text
            missing = server.post(VISUAL, {**image, "sam2_version_id": "hiera_large"})
            assert missing.status_code == 503
            assert "sam2.1_hiera_large.pt" in missing.json()["message"]
            # The other model works.
            text = {**image, "prompts": [{"text": "dog"}]}
            assert server.post(CONCEPT, text).status_code == 200
            loaded = server.get("/models").json()
            assert loaded["models"]["sam2"] == ["sam2-hiera-tiny"]
            assert [family for family, _ in loaded["loaded"]] == ["sam3"]

    def test_missing_weights_stop_startup(self, caplog: pytest.LogCaptureFixture) -> None:
        changes: Any = {"ready": False, "sam2_weights": "/no/such/weights"}
        with pytest.raises(AssertionError, match="did not start"), serving(**changes):
            pass
        assert "INFERENCE_SAM2_WEIGHTS=/no/such/weights" in caplog.text
        assert "Set it to demo" in caplog.text

    def test_readiness_waits_for_preloaded_models_only(self) -> None:
        with serving(preload="sam2:sam2-hiera-tiny") as server:
            loaded = server.get("/models").json()["loaded"]
            assert {family for family, _ in loaded} == {"sam2"}
            text = {"image": noise(553), "prompts": [{"text": "dog"}]}
            assert server.post(CONCEPT, text).status_code == 200

    def test_an_unknown_preload_stops_startup(self, caplog: pytest.LogCaptureFixture) -> None:
        changes: Any = {"ready": False, "preload": "sam2:huge"}
        with pytest.raises(AssertionError, match="did not start"), serving(**changes):
            pass
        assert "INFERENCE_PRELOAD=sam2:huge: no such model" in caplog.text
        assert "sam2:sam2-hiera-base-plus" in caplog.text
