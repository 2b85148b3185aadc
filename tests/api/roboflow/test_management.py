"""Several models by name: which one answers, and how they are listed, loaded and unloaded."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from inference_server import __version__
from inference_server.demo import WEIGHTS
from inference_server.engines import load_weights
from schemas.roboflow import ModelsDescriptions, ServerVersionInfo
from schemas.system import ModelsResponse
from tests.api import rasters
from tests.api.pictures import Picture, assert_finds, click, noise
from tests.api.serving import (
    ALICE,
    CONCEPT,
    SAM2_EMBED,
    SAM3_EMBED,
    TIMEOUT,
    VISUAL,
    Running,
    RunningHere,
    in_process,
    steps,
    until,
)

ADD, REMOVE, CLEAR, REGISTRY = "/model/add", "/model/remove", "/model/clear", "/model/registry"
BASE, CROPS = "sam3/sam3_final", "crops/3"
SAM2 = [f"sam2/hiera_{size}" for size in ("tiny", "small", "b_plus", "large")]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with another SAM 3; its weights are those of the demo."""
    directory = tmp_path_factory.mktemp("models") / "crops"
    shutil.copytree(WEIGHTS / "sam3", directory)
    return str(directory)


@pytest.fixture(scope="module")
def many(crops: str) -> Iterator[RunningHere]:
    """A server with two SAM 3, one of which is loaded on demand."""
    with in_process(sam3_models={CROPS: crops}, sam1_weights="none") as running:
        yield running


@pytest.fixture
def nothing_loaded(many: RunningHere) -> RunningHere:
    """The same, without models in memory and without cached images."""
    assert loaded(many.post(CLEAR, b"")) == []
    return many


def loaded(response: httpx.Response) -> list[str]:
    """Return the ids of a response that lists the models in memory."""
    assert response.status_code == 200, response.text
    return [each.model_id for each in ModelsDescriptions.model_validate(response.json()).models]


def ask(server: Running, image: Any, model: str = BASE, **fields: Any) -> httpx.Response:
    body = {"image": image, "prompts": [{"text": "red circle"}], "format": "rle", **fields}
    response = server.post(CONCEPT, {**body, "model_id": model})
    assert response.status_code == 200, response.text
    return response


def checkpoint(server: Running, name: str) -> dict[str, Any]:
    """Return the entry of a model in `GET /models`."""
    answer = server.get("/models").json()
    ModelsResponse.model_validate(answer)
    (found,) = [each for each in answer["checkpoints"] if each["name"] == name]
    return dict(found)


def test_both_answer_from_embeddings_of_their_own(
    nothing_loaded: RunningHere, picture: Picture
) -> None:
    server = nothing_loaded
    found = {}
    for model, label in ((BASE, "sam3/demo"), (CROPS, "sam3/crops/3")):
        first, again = (ask(server, picture.sent, model) for _ in range(2))
        caches = [each.headers["x-embedding-cache"] for each in (first, again)]
        assert caches == ["miss", "hit"], "the other model's embedding is no use"
        assert [each.headers["x-model"] for each in (first, again)] == [label] * 2
        assert [each.headers["x-model-id"] for each in (first, again)] == [model] * 2
        (result,) = first.json()["prompt_results"]
        assert_finds(result["predictions"], picture.matching("red circle"), picture.size)
        found[model] = result["predictions"]
    assert found[BASE] == found[CROPS]


def test_samgeo_selects_one_by_model_id(nothing_loaded: RunningHere, picture: Picture) -> None:
    server = nothing_loaded
    for sent, label in ((None, "sam3/demo"), (CROPS, "sam3/crops/3")):
        fields = {} if sent is None else {"model_id": sent}
        response = rasters.post(
            server,
            rasters.TEXT,
            picture.data,
            prompt="red circle",
            output_format="json",
            model_version="sam3",
            **fields,
        )
        assert response.status_code == 200, response.text
        assert response.headers["x-model"] == label
        assert response.headers["x-embedding-cache"] == "miss"
    assert server.get("/models").json()["models"]["sam3"] == ["facebook/sam3", CROPS]


def test_models_are_listed_with_state_bytes_and_last_use(nothing_loaded: RunningHere) -> None:
    server = nothing_loaded
    idle = checkpoint(server, CROPS)
    assert (idle["loaded"], idle["nbytes"]) == (False, 0)
    assert not {"last_used", "side"} & set(idle), "what is not known is left out"
    ask(server, noise(901), CROPS)
    used = checkpoint(server, CROPS)
    assert used["loaded"]
    assert used["nbytes"] > 4_000_000
    assert used["side"] == server.segmenter.models.loaded()[0].side > 0
    ask(server, noise(902), CROPS)
    assert checkpoint(server, CROPS)["last_used"] > used["last_used"] > 0
    assert not checkpoint(server, BASE)["loaded"]


def test_the_headers_tell_whether_a_request_waited_for_a_load(
    nothing_loaded: RunningHere, picture: Picture
) -> None:
    server = nothing_loaded
    cold, warm = (ask(server, picture.sent, CROPS) for _ in range(2))
    assert cold.headers["x-model-cold-start"] == "true"
    load, total = (
        float(cold.headers[f"x-{name}"]) for name in ("model-load-time", "processing-time")
    )
    assert 0 < load < total
    assert steps(cold)["load"] == pytest.approx(1e3 * load, abs=0.1)
    assert warm.headers["x-model-cold-start"] == "false"
    assert "x-model-load-time" not in warm.headers
    assert "load" not in steps(warm)
    assert float(warm.headers["x-processing-time"]) > 0


def test_the_ids_of_the_models_that_answered(nothing_loaded: RunningHere, picture: Picture) -> None:
    server = nothing_loaded
    image = {"image": picture.sent}
    asked: list[tuple[str, dict[str, Any]]] = [
        (SAM2[0], server.post(VISUAL, {**image, "sam2_version_id": "hiera_tiny"}).headers),  # type: ignore[list-item]
        (SAM2[3], server.post(SAM2_EMBED, image).headers),  # type: ignore[list-item]
    ]
    for expected, headers in asked:
        assert headers["x-model-id"] == expected
    both = server.post(SAM3_EMBED, image).headers
    visual = server.post(VISUAL, {**image, "prompts": [click(picture.scene.objects[0])]}).headers
    assert both["x-model-id"].split(",") == list(dict.fromkeys([visual["x-model-id"], BASE]))
    assert both["x-model-cold-start"] == "true"


class TestManagement:
    def test_info_needs_no_key(self, many: RunningHere) -> None:
        answers = [many.get("/info", key=None).json() for _ in range(2)]
        info = ServerVersionInfo.model_validate(answers[0])
        assert (info.name, info.version) == ("inference-server", __version__)
        assert UUID(info.uuid).version == 4
        assert answers[0] == answers[1]

    def test_a_model_is_loaded_and_unloaded(self, nothing_loaded: RunningHere) -> None:
        server = nothing_loaded
        assert loaded(server.post(ADD, {"model_id": CROPS})) == [CROPS]
        assert loaded(server.post(ADD, {"model_id": CROPS})) == [CROPS]
        assert loaded(server.post(ADD, {"model_id": SAM2[0]})) == [CROPS, *SAM2], "one checkpoint"
        for response in (server.get(REGISTRY), server.post(REGISTRY, b"")):
            assert loaded(response) == [CROPS, *SAM2]
        (crops, *_) = server.get(REGISTRY).json()["models"]
        side = checkpoint(server, CROPS)["side"]
        assert crops == {
            "model_id": CROPS,
            "task_type": "unsupervised-segmentation",
            "batch_size": 1,
            "input_height": side,
            "input_width": side,
        }
        assert loaded(server.post(REMOVE, {"model_id": CROPS})) == SAM2
        assert loaded(server.post(REMOVE, {"model_id": CROPS})) == SAM2
        assert loaded(server.post(CLEAR, b"")) == []

    def test_an_unloaded_models_embeddings_remain(
        self, nothing_loaded: RunningHere, picture: Picture
    ) -> None:
        server = nothing_loaded
        before = ask(server, picture.sent, CROPS)
        assert loaded(server.post(REMOVE, {"model_id": CROPS})) == []
        after = ask(server, picture.sent, CROPS)
        assert after.headers["x-model-cold-start"] == "true"
        assert after.headers["x-embedding-cache"] == "hit"
        assert after.json()["prompt_results"] == before.json()["prompt_results"]
        assert loaded(server.post(CLEAR, b"")) == []
        assert ask(server, picture.sent, CROPS).headers["x-embedding-cache"] == "miss"

    @pytest.mark.parametrize("path", [ADD, REMOVE])
    def test_an_unknown_model_is_refused_with_the_known_ones(
        self, many: RunningHere, path: str
    ) -> None:
        response = many.post(path, {"model_id": "crops/4"})
        assert response.status_code == 422
        (mistake,) = response.json()["detail"]
        assert mistake["loc"] == ["body", "model_id"]
        known = ", ".join([BASE, CROPS, *SAM2])
        assert mistake["msg"] == f"Unknown model_id. This server has {known}."

    def test_concept_segment_lists_the_ids_that_it_takes(self, many: RunningHere) -> None:
        body = {"image": noise(903), "prompts": [{"text": "x"}], "model_id": SAM2[0]}
        response = many.post(CONCEPT, body)
        assert response.status_code == 422
        (mistake,) = response.json()["detail"]
        assert mistake["msg"] == f"Unknown model_id. This server has {BASE}, {CROPS}."

    @pytest.mark.parametrize(
        ("body", "status"), [({}, 422), ({"model_id": ""}, 422), (b"", 422), (b"[1]", 422)]
    )
    def test_a_wrong_body_is_refused(self, many: RunningHere, body: Any, status: int) -> None:
        assert many.post(ADD, body).status_code == status

    def test_they_need_a_key(self, many: RunningHere) -> None:
        named = {"model_id": CROPS}
        for path, body in ((ADD, named), (REMOVE, named), (CLEAR, b""), (REGISTRY, b"")):
            for key in (None, "wrong"):
                assert many.post(path, body, key=key).status_code == 401
        assert many.get(REGISTRY, key=None).status_code == 401
        # As inference-sdk sends it.
        assert many.get(f"{REGISTRY}?api_key={ALICE}", key=None).status_code == 200
        assert many.post(ADD, {**named, "api_key": ALICE}, key=None).status_code == 200

    def test_weights_that_cannot_be_loaded(self, nothing_loaded: RunningHere, crops: str) -> None:
        server, file = nothing_loaded, Path(crops) / "model.safetensors"
        whole = file.read_bytes()
        file.write_bytes(b"broken")
        try:
            response = server.post(ADD, {"model_id": CROPS})
            assert response.status_code == 503
            assert "crops/3" in response.json()["message"]
        finally:
            file.write_bytes(whole)
        assert loaded(server.post(ADD, {"model_id": CROPS})) == [CROPS]


def test_a_load_goes_on_after_the_deadline(crops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load, go_on, loads = load_weights.load_sam3, threading.Event(), []

    def gated(source: str, name: str, compute: Any) -> Any:
        loads.append(name)
        if name == CROPS:
            assert go_on.wait(TIMEOUT)
        return load(source, name, compute)

    monkeypatch.setattr(load_weights, "load_sam3", gated)
    with in_process(sam3_models={CROPS: crops}, request_timeout=0.3) as server:
        try:
            for _ in range(2):
                assert server.post(ADD, {"model_id": CROPS}).status_code == 504
        finally:
            go_on.set()
        # A busy machine may take longer than 0.3 seconds for a list.
        patient = server.state.settings.model_copy(update={"request_timeout": TIMEOUT})
        monkeypatch.setattr(server.state, "settings", patient)
        until(lambda: CROPS in loaded(server.get(REGISTRY)))
    assert loads.count(CROPS) == 1, "the second request waited for the same load"
