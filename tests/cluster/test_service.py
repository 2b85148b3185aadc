"""An ingress sends a file once, then its digest, and the file again if the replica evicted it."""

from __future__ import annotations

import asyncio
import base64
import pickle
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_server.cluster.client import session_of
from inference_server.cluster.messages import SentImage
from inference_server.cluster.replica import EngineReplica
from inference_server.cluster.service import ClusterSegmentationService
from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.engines.catalog import ModelKey
from inference_server.errors import (
    CapacityError,
    DeadlineError,
    ImageError,
    ModelUnavailableError,
    UnknownImageError,
)
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.types import (
    ConceptOptions,
    EmbeddingTarget,
    ImageRef,
    SegmentationResult,
    StoredImage,
    VisualOptions,
)
from inference_server.settings import Settings
from tests.api.pictures import Picture, iou, noise

pytestmark = pytest.mark.anyio

SETTINGS = Settings(device="cpu", dtype="float32", visual_model="sam2")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Pickled:
    """Response of a replica in this process; arguments and result are pickled as by Ray."""

    def __init__(self, replica: EngineReplica, method: str, arguments: Any) -> None:
        self._call = getattr(replica, method)
        self._arguments = arguments
        self._replica_result = object()

    def __await__(self) -> Generator[Any, None, Any]:
        answer = yield from self._call(*pickle.loads(pickle.dumps(self._arguments))).__await__()
        return pickle.loads(pickle.dumps(answer))


@dataclass
class Broadcast:
    """Result of a call of all replicas, of which there is one."""

    replica: Any
    method: str
    arguments: Any

    async def results_async(self, *, timeout_s: float, return_exceptions: bool) -> list[Any]:
        assert timeout_s > 0
        assert return_exceptions
        return [await Pickled(self.replica, self.method, self.arguments)]


@dataclass
class Wire:
    """Stands in for Ray's handle and records what is sent.

    Attributes:
        replica: the replica that answers.
        deployment_name: name of the deployment, as in Ray's handle.
        app_name: name of the application, likewise.
        sent: images that were sent.
        sessions: session ids of the calls.
        method: method of the last call.
    """

    replica: EngineReplica
    deployment_name: str = "visual"
    app_name: str = "without Ray"
    sent: list[SentImage] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    method: str = ""

    def options(self, method_name: str, session_id: str) -> Wire:
        self.method = method_name
        self.sessions.append(session_id)
        return self

    def broadcast(self, method: str, *arguments: Any) -> Broadcast:
        return Broadcast(self.replica, method, arguments)

    def remote(self, *arguments: Any) -> Pickled:
        self.sent += [a for a in arguments if isinstance(a, SentImage)]
        return Pickled(self.replica, self.method, arguments)


@pytest.fixture(scope="module")
async def replica() -> AsyncIterator[EngineReplica]:
    made = EngineReplica.__new__(EngineReplica)
    await made.__init__(SETTINGS, "sam2", 1.0)  # type: ignore[misc]  # as Serve does
    yield made
    made._segmenter.close()


@dataclass
class Ingress:
    """An ingress with one replica.

    Attributes:
        wire: handle of the replica.
        segmenter: the service under test.
        picture: image of the requests.
    """

    wire: Wire
    segmenter: ClusterSegmentationService
    picture: Picture

    async def click(self, *, image: str | None = None, tenant: str = "a", **named: Any) -> Any:
        """Click on the red square and check its mask.

        Args:
            image: base64 to send; an empty string sends none. Default: the picture.
            tenant: owner of the image. Default: `a`.
            named: further fields of `ImageRef`.

        Returns:
            The encoded image.
        """
        item = self.picture.one("red square")
        prompt = VisualPrompt(np.array([item.click()], np.float32), np.ones(1, np.int64))
        sent = base64.b64encode(self.picture.data).decode() if image is None else image
        found: SegmentationResult = await self.segmenter.visual(
            tenant,
            ImageRef(base64=sent or None, **named),
            [prompt],
            VisualOptions(multimask=True),
            timings=Timings(),
        )
        (instance,) = found.instances
        assert iou(instance.mask.to_plane(), item.mask) > 0.8
        assert found.image.embedding.features is None, "embeddings stay in the replica"
        assert instance.logits is None
        return found.image

    async def timed_click(self) -> dict[str, float]:
        """Click on the image, and return the seconds by stage."""
        timings = Timings()
        sent = ImageRef(base64=base64.b64encode(self.picture.data).decode())
        prompt = VisualPrompt(np.array([[9, 9]], np.float32), np.ones(1, np.int64))
        await self.segmenter.visual("a", sent, [prompt], VisualOptions(), timings=timings)
        return timings.seconds


@pytest.fixture
async def ingress(replica: EngineReplica, picture: Picture) -> AsyncIterator[Ingress]:
    replica._segmenter.forget()
    wire = Wire(replica)
    handles: Any = {"sam2": wire}
    segmenter = ClusterSegmentationService(SETTINGS, Metrics(), handles, describe_timeout=0.0)
    yield Ingress(wire, segmenter, picture)
    segmenter.close()


async def test_a_file_is_sent_once(ingress: Ingress) -> None:
    first, second = await ingress.click(), await ingress.click()
    assert (first.hit, second.hit) == (False, True)
    assert [each.data is not None for each in ingress.wire.sent] == [True, False]
    assert {each.digest for each in ingress.wire.sent} == {first.digest}
    assert set(ingress.wire.sessions) == {session_of("a", first.digest)}


async def test_an_evicted_file_is_sent_again(ingress: Ingress) -> None:
    await ingress.click(image_id="mine")
    ingress.wire.replica._segmenter.forget()
    assert not (await ingress.click(image_id="mine")).hit
    assert [each.data is not None for each in ingress.wire.sent] == [True, False, True]
    # Also if the request has no file: the ingress keeps the files of images with an id.
    ingress.wire.replica._segmenter.forget()
    assert not (await ingress.click(image="", image_id="mine")).hit
    assert set(ingress.wire.sessions) == {session_of("a", "mine")}


async def test_a_named_image_needs_no_file(ingress: Ingress) -> None:
    await ingress.click(image_id="mine")
    assert (await ingress.click(image="", image_id="mine")).hit
    assert ingress.wire.sent[1] == SentImage("mine")
    with pytest.raises(UnknownImageError):
        await ingress.click(image="", image_id="nobody's")
    with pytest.raises(UnknownImageError):
        await ingress.click(image="", image_id="mine", tenant="b")


async def test_different_bytes_with_a_known_id_are_a_mismatch(ingress: Ingress) -> None:
    await ingress.click(image_id="mine")
    for other in (base64.b64encode(b"other").decode(), "no base64 at all"):
        assert (await ingress.click(image=other, image_id="mine")).mismatch
    with pytest.raises(ImageError):
        await ingress.click(image="no base64 at all", image_id="another")
    assert (await ingress.click(image="", image_id="mine")).hit, "the first image is kept"


async def test_a_redundant_image_is_compared_while_the_engine_works(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ingress.click(image_id="mine")
    answered = asyncio.Event()
    load, ask = ingress.segmenter.image_loader.load, ingress.wire.replica.ask

    async def load_late(*arguments: Any) -> Any:
        await asyncio.wait_for(answered.wait(), 60)
        return await load(*arguments)

    async def ask_and_tell(*arguments: Any) -> Any:
        answered.set()
        return await ask(*arguments)

    monkeypatch.setattr(ingress.segmenter.image_loader, "load", load_late)
    monkeypatch.setattr(ingress.wire.replica, "ask", ask_and_tell)
    other = base64.b64encode(b"other").decode()
    assert not (await ingress.click(image_id="mine")).mismatch
    answered.clear()
    assert (await ingress.click(image=other, image_id="mine")).mismatch


async def test_an_invalid_image_is_not_cached(ingress: Ingress) -> None:
    nothing = base64.b64encode(b"no image").decode()
    for _ in range(2):
        with pytest.raises(ImageError):
            await ingress.click(image=nothing, image_id="mine")
    assert not (await ingress.click(image_id="mine")).mismatch


async def test_embed_names_an_image_by_its_digest(ingress: Ingress) -> None:
    await ingress.click()
    sent = base64.b64encode(ingress.picture.data).decode()
    models = [EmbeddingTarget("visual")]
    done = await ingress.segmenter.embed("a", ImageRef(base64=sent), models, Timings())
    assert (await ingress.click(image="", image_id=done.digest)).hit
    file = await ingress.segmenter.read("a", ImageRef(image_id=done.digest), Timings())
    assert file.data == ingress.picture.data
    with pytest.raises(UnknownImageError):
        await ingress.segmenter.read("b", ImageRef(image_id=done.digest), Timings())


async def test_hits_are_counted(ingress: Ingress) -> None:
    for _ in range(3):
        await ingress.click()
    samples = {s.name: s.value for m in ingress.segmenter.readings() for s in m.samples}
    assert samples == {
        "inference_embedding_cache_hits_total": 2,
        "inference_embedding_cache_misses_total": 1,
    }


async def test_checkpoints_of_a_slow_engine_are_the_last_known_ones(ingress: Ingress) -> None:
    """The fixture's timeout is 0 s, so only `load`, which has none, gets an answer."""
    assert await ingress.segmenter.checkpoints() == []
    await ingress.segmenter.load()
    known = await ingress.segmenter.checkpoints()
    assert {each.name for each in known} >= {"hiera_large"}
    assert not any(each.loaded for each in known), "not confirmed, so not reported as loaded"


async def test_all_replicas_load_and_unload_a_model(
    ingress: Ingress, replica: EngineReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, tiny = replica._segmenter.models, ModelKey("sam2", "hiera_tiny")
    await ingress.segmenter.unload_model(tiny)
    assert not models.is_loaded(tiny)
    assert "load" in (await ingress.timed_click())
    assert "load" not in (await ingress.timed_click())
    await ingress.segmenter.unload_model(tiny)
    await ingress.segmenter.load_model(tiny)
    assert models.is_loaded(tiny)
    with pytest.raises(ModelUnavailableError, match="Unknown model 'cells'"):
        await ingress.segmenter.load_model(ModelKey("sam2", "cells"))

    async def fail(key: ModelKey) -> None:
        raise CapacityError("no room", 2.0)

    monkeypatch.setattr(models, "load", fail)
    with pytest.raises(CapacityError, match="no room"):
        await ingress.segmenter.load_model(tiny)

    async def late(*arguments: Any, **named: Any) -> list[Any]:
        raise TimeoutError

    monkeypatch.setattr(Broadcast, "results_async", late)
    with pytest.raises(DeadlineError, match="they go on"):
        await ingress.segmenter.load_model(tiny)


async def test_a_replica_of_an_encrypted_ray_is_called_through_serve(
    replica: EngineReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connections of ingresses to replicas are not encrypted."""
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert await replica.record_replica_metadata() == {}


async def test_the_reply_names_the_model_that_answered(ingress: Ingress) -> None:
    assert (await ingress.click()).answered_by == (ModelKey("sam2", "hiera_large"),)


def test_sessions_differ_by_tenant_and_image() -> None:
    assert session_of("a", "b") == session_of("a", "b")
    names = [("a", "b"), ("b", "a"), ("c", "b"), ("ab", ""), ("", "ab")]
    assert len({session_of(*each) for each in names}) == len(names)


async def test_an_image_is_forgotten_by_replicas_and_ingresses(
    ingress: Ingress, replica: EngineReplica, picture: Picture
) -> None:
    handles: Any = {"sam2": Wire(replica)}
    other = ClusterSegmentationService(SETTINGS, Metrics(), handles)

    @dataclass
    class Ingresses:
        """Calls what the deployment's replicas do."""

        async def forget_image(self, tenant: str, image_id: str, keep: str | None) -> bool:
            return other.forget_file(tenant, image_id, keep)

    ingresses: Any = Wire(Ingresses())  # type: ignore[arg-type]
    ingress.segmenter._ingresses = lambda: ingresses
    for each in (ingress, Ingress(ingress.wire, other, picture)):
        await each.click(image_id="mine")
    assert await ingress.segmenter.forget_image("a", "mine")
    for each in (ingress, Ingress(ingress.wire, other, picture)):
        with pytest.raises(UnknownImageError):
            await each.click(image="", image_id="mine")
    assert not await ingress.segmenter.forget_image("a", "mine")
    other.close()


@pytest.mark.parametrize("name", ["mine", None], ids=["id", "digest"])
async def test_the_second_engine_does_not_undo_forgetting(
    ingress: Ingress, replica: EngineReplica, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    segmenter, real = ingress.segmenter, ClusterSegmentationService._call
    digest = StoredImage.of(ingress.picture.data).digest
    asked = 0

    async def call(*arguments: Any) -> Any:
        nonlocal asked
        answer = await real(*arguments)
        asked += 1
        if asked == 1:
            await segmenter.forget_image("a", name or digest)
        return answer

    monkeypatch.setattr(ClusterSegmentationService, "_call", call)
    both = dict.fromkeys(("sam2", "sam3"), segmenter._handles["sam2"])
    monkeypatch.setattr(segmenter, "_handles", both)
    callers = dict.fromkeys(both, segmenter._callers["sam2"])
    monkeypatch.setattr(segmenter, "_callers", callers)
    image = ImageRef(base64=base64.b64encode(ingress.picture.data).decode(), image_id=name)
    await segmenter.embed(
        "a", image, [EmbeddingTarget("visual"), EmbeddingTarget("concept")], Timings()
    )
    assert asked == 2
    with pytest.raises(UnknownImageError):
        await ingress.click(image="", image_id=name or digest)


async def test_an_id_is_given_to_another_image(ingress: Ingress, replica: EngineReplica) -> None:
    async def embed(data: bytes, *, overwrite: bool) -> Any:
        image = ImageRef(base64=base64.b64encode(data).decode(), image_id="mine")
        models = [EmbeddingTarget("visual")]
        return await ingress.segmenter.embed("a", image, models, Timings(), overwrite=overwrite)

    other = base64.b64decode(noise(960)["value"])
    first = await embed(other, overwrite=False)
    assert (await embed(ingress.picture.data, overwrite=False)).mismatch
    second = await embed(ingress.picture.data, overwrite=True)
    assert not second.mismatch
    assert second.digest != first.digest
    assert (await ingress.click(image="", image_id="mine")).digest == second.digest
    # Also when the replica has lost it: the ingress has the new file.
    replica._segmenter.forget()
    assert (await ingress.click(image="", image_id="mine")).digest == second.digest
    with pytest.raises(ImageError):
        await embed(b"no image", overwrite=True)
    assert (await ingress.click(image="", image_id="mine")).hit


async def test_a_pinned_file_is_used_and_not_named(ingress: Ingress) -> None:
    """A job's image, whose id may name another image by now, or none."""
    pinned: dict[str, Any] = {
        "file": StoredImage.of(ingress.picture.data),
        "image_id": "mine",
        "pinned": True,
    }
    for hit in (False, True):
        assert (await ingress.click(image="", **pinned)).hit == hit
    assert [each.data is not None for each in ingress.wire.sent] == [True, False]
    with pytest.raises(UnknownImageError):
        await ingress.click(image="", image_id="mine")


@dataclass
class Sam3Wire:
    """A cluster with the one deployment `concept`, whose replica has both sides of SAM 3."""

    wire: Wire
    segmenter: ClusterSegmentationService
    picture: Picture

    async def find(self, **named: Any) -> SegmentationResult:
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        return await self.segmenter.concept(
            "a",
            ImageRef(**named),
            [ConceptPrompt("red circle", *nothing)],
            ConceptOptions(),
            timings=Timings(),
        )

    async def click(self, *, timings: Timings | None = None, **named: Any) -> SegmentationResult:
        prompt = VisualPrompt(np.array([[100, 100]], np.float32), np.ones(1, np.int64))
        return await self.segmenter.visual(
            "a", ImageRef(**named), [prompt], VisualOptions(), timings=timings or Timings()
        )


@pytest.fixture
async def sam3(published_sam3: Path, picture: Picture) -> AsyncIterator[Sam3Wire]:
    settings = SETTINGS.model_copy(
        update={
            "sam3_weights": str(published_sam3),
            "sam2_weights": "none",
            "visual_model": "auto",
        }
    )
    replica = EngineReplica.__new__(EngineReplica)
    await replica.__init__(settings, "sam3", 1.0)  # type: ignore[misc]  # as Serve does
    wire = Wire(replica, "concept")
    handles: Any = {"sam3": wire}
    segmenter = ClusterSegmentationService(settings, Metrics(), handles)
    yield Sam3Wire(wire, segmenter, picture)
    segmenter.close()
    replica._segmenter.close()


async def test_words_and_a_click_of_sam3_share_a_replica_and_an_encoding(sam3: Sam3Wire) -> None:
    sent = base64.b64encode(sam3.picture.data).decode()
    timings = Timings()
    words = await sam3.find(base64=sent, image_id="mine")
    click = await sam3.click(image_id="mine", timings=timings)
    again = await sam3.click(base64=sent)
    assert words.image.model == click.image.model == "sam3/published"
    assert [each.image.hit for each in (words, click, again)] == [False, True, False]
    assert len(words.instances) == 2
    assert "decode" not in timings.seconds, "the image was decoded again"
    assert [each.data is not None for each in sam3.wire.sent] == [True, False, True]
    first, second, other = sam3.wire.sessions
    assert first == second == session_of("a", "mine")
    assert other == session_of("a", words.image.digest)


async def test_words_after_a_click_send_no_file(sam3: Sam3Wire) -> None:
    sent = base64.b64encode(sam3.picture.data).decode()
    assert not (await sam3.click(base64=sent)).image.hit
    assert (await sam3.find(base64=sent)).image.hit
    assert [each.data is not None for each in sam3.wire.sent] == [True, False]
    assert len(set(sam3.wire.sessions)) == 1


async def test_embedding_for_both_sides_is_one_call(sam3: Sam3Wire) -> None:
    sent = base64.b64encode(sam3.picture.data).decode()
    targets = [EmbeddingTarget("visual"), EmbeddingTarget("concept")]
    image = ImageRef(base64=sent, image_id="both")
    done = await sam3.segmenter.embed("a", image, targets, Timings())
    assert done.model == "sam3/published"
    assert len(sam3.wire.sent) == 1
    assert (await sam3.click(image_id="both")).image.hit
    assert (await sam3.find(image_id="both")).image.hit


async def test_one_deployment_lists_its_models(sam3: Sam3Wire) -> None:
    await sam3.segmenter.load()
    (checkpoint,) = await sam3.segmenter.checkpoints()
    assert (checkpoint.family, checkpoint.source, checkpoint.loaded) == ("sam3", "published", True)
    with pytest.raises(ModelUnavailableError, match="no SAM 2"):
        await sam3.segmenter.visual(
            "a",
            ImageRef(image_id="mine"),
            [],
            VisualOptions(),
            timings=Timings(),
            model=ModelKey("sam2", "hiera_tiny"),
        )
