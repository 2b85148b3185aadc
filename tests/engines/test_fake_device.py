"""All engines on a CUDA device that is fake: no tensor is on the wrong device, and the host waits
for the device as rarely as it can. See `fake_device`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Sam3Processor, Sam3TrackerConfig

from inference_server.demo import WEIGHTS
from inference_server.engines import cuda_graphs
from inference_server.engines.base import (
    Candidates,
    ConceptPrompt,
    Embedding,
    Prepared,
    Query,
    VisualPrompt,
    queries,
)
from inference_server.engines.cuda_graphs import Body, Graphs, Recorded
from inference_server.engines.device_masks import DeviceMasks
from inference_server.engines.sam1.engine import Sam1Engine
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.sam3.trunk import TrunkEngine
from inference_server.engines.sam3.visual_engine import Sam3VisualEngine
from inference_server.engines.sam3.visual_head import VisualHead
from tests.engines.conftest import random_lite_text, random_sam2, random_sam3
from tests.engines.fake_device import FakeDevice, fake_compute, fake_device
from tests.engines.sam1.models import processor_of, random_sam1

SIZES = [(48, 64), (64, 40)]
"""(height, width) of the images."""

DTYPES = [torch.float32, torch.bfloat16]

POINTS = np.array([[10, 20], [30, 25], [12, 8]], np.float32)
LABELS = np.array([1, 0, 1], np.int64)
NO_POINTS, NO_LABELS = np.empty((0, 2), np.float32), np.empty(0, np.int64)
BOX = np.array([5, 6, 30, 35], np.float32)
NO_BOXES = np.empty((0, 4), np.float32)
BOXES = np.array([[1, 1, 20, 30], [3, 3, 9, 9], [8, 2, 30, 20]], np.float32)


@dataclass
class Case:
    """An engine on the fake device, with images that it has encoded.

    Attributes:
        device: The fake device.
        engine: The engine.
        embeddings: Two images.
        encode_waits: Waits for the device while they were encoded.
    """

    device: FakeDevice
    engine: Any
    embeddings: list[Embedding]
    encode_waits: list[str]

    def decode(self, asked: list[Query[Any]]) -> tuple[list[Candidates], int]:
        """The results of queries, and how often they waited for the device."""
        self.device.waits.clear()
        with fake_device(self.device):
            found = self.engine.decode(asked)
        return found, len(self.device.waits)


def encoded(device: FakeDevice, engine: Any, images: list[Prepared] | None = None) -> Case:
    given = images or [engine.prepare(np.zeros((*size, 3), np.uint8)) for size in SIZES]
    device.waits.clear()
    embeddings = engine.encode(given)
    return Case(device, engine, embeddings, list(device.waits))


def small_head(vision: Any) -> VisualHead:
    """A visual head for the demo's image encoder."""
    # The encoder's output has 16 x 16 pixels; the head's own input size only scales coordinates.
    side, width = 256, vision.fpn_hidden_size
    config: Any = Sam3TrackerConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": width, "image_size": side, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 64,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
        },
    )
    return VisualHead(config, vision).eval().requires_grad_(False)


def make(family: str, dtype: torch.dtype) -> Case:
    """An engine of the family, placed on a device of its own."""
    device, compute = FakeDevice(), fake_compute(dtype)
    if family == "sam1":
        sam1, processor = random_sam1(), processor_of().image_processor
        with fake_device(device):
            return encoded(
                device, Sam1Engine(device.place(sam1), processor, "random", compute, owned=True)
            )
    if family == "sam2":
        sam2 = random_sam2()
        with fake_device(device):
            return encoded(device, VisualEngine(device.place(sam2), "random", compute))
    if family == "trunk":
        return trunk_case(dtype)
    if family == "head":
        trunk = trunk_case(dtype)
        head = small_head(random_sam3().config.vision_config)
        images = [Prepared(each.features, each.size) for each in trunk.embeddings]
        with fake_device(trunk.device):
            engine = Sam3VisualEngine(trunk.device.place(head), "random", compute, owned=True)
            return encoded(trunk.device, engine, images)
    model = random_sam3() if family == "sam3" else random_lite_text()
    with fake_device(device):
        placed = device.place(model)
        return encoded(
            device, ConceptEngine(placed, sam3_processor(), "random", compute, owned=True)
        )


@cache
def sam3_processor() -> Sam3Processor:
    found: Sam3Processor = Sam3Processor.from_pretrained(WEIGHTS / "sam3")
    return found


@cache
def trunk_case(dtype: torch.dtype) -> Case:
    """SAM 3's image encoder, whose output the visual head starts from."""
    device, compute = FakeDevice(), fake_compute(dtype)
    sam3 = random_sam3()
    with fake_device(device):
        return encoded(device, TrunkEngine(device.place(sam3), sam3_processor(), "random", compute))


def cases(*families: str, dtypes: Sequence[torch.dtype] = DTYPES) -> pytest.MarkDecorator:
    """Parameters of the fixture `case`; float32, where dtypes cannot differ, is for few tests."""
    return pytest.mark.parametrize(
        "case",
        [(family, dtype) for family in families for dtype in dtypes],
        ids=[f"{family}-{str(dtype)[6:]}" for family in families for dtype in dtypes],
        indirect=True,
        scope="module",
    )


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return make(*request.param)


def visual_prompts(engine: Any) -> dict[str, VisualPrompt]:
    """A prompt of each form."""
    side = engine.side // 4
    mask = np.zeros((side, side), np.float32)
    return {
        "click": VisualPrompt(POINTS[:1], LABELS[:1]),
        "box and points": VisualPrompt(POINTS, LABELS, BOX),
        "mask, box and click": VisualPrompt(POINTS[:1], LABELS[:1], BOX, mask),
        "points": VisualPrompt(POINTS, LABELS),
        "box": VisualPrompt(NO_POINTS, NO_LABELS, BOX),
        "mask": VisualPrompt(NO_POINTS, NO_LABELS, mask_input=mask),
        "mask and click": VisualPrompt(POINTS[:1], LABELS[:1], mask_input=mask),
        "empty": VisualPrompt(NO_POINTS, NO_LABELS),
    }


def concept_prompts(threshold: float) -> list[ConceptPrompt]:
    """A prompt of each form, with texts of several lengths."""
    labels = np.array([1, 0, 1], np.int64)
    return [
        ConceptPrompt("red circle", NO_BOXES, NO_LABELS, threshold),
        ConceptPrompt("shape", NO_BOXES, NO_LABELS, threshold),
        ConceptPrompt(None, BOXES[:1], labels[:1], threshold),
        ConceptPrompt(None, BOXES, labels, threshold),
        ConceptPrompt("a blue star", BOXES[:2], labels[:2], threshold),
    ]


@cases("sam1", "sam2", "sam3", "trunk", "head")
def test_encoding_stays_on_the_device_and_never_waits(case: Case) -> None:
    assert case.encode_waits == []
    assert [embedding.size for embedding in case.embeddings] == SIZES
    tensors = [tensor for each in case.embeddings for tensor in each.features.tensors]
    assert {tensor.device for tensor in tensors} == {torch.device("cuda:0")}
    dtype = case.engine._compute.cache_dtype
    assert {tensor.dtype for tensor in tensors} == {dtype}


@cases("sam1", "sam2", "head")
def test_a_click_waits_once(case: Case) -> None:
    (embedding, _) = case.embeddings
    click = visual_prompts(case.engine)["click"]
    for best in (False, True):
        (found,), waits = case.decode(queries(embedding, [click], best=best))
        assert waits == 1, case.device.waits
        assert len(found.planes) == len(found.scores) == (1 if best else 3)
        assert found.planes.dtype == found.scores.dtype == np.float32
        assert found.logits is not None
        assert found.logits.shape[1:] == (case.engine.side // 4,) * 2


@cases("sam1", "sam2", "head", dtypes=[torch.bfloat16])
def test_prompts_of_all_forms_on_several_images_wait_once(case: Case) -> None:
    prompts = visual_prompts(case.engine)
    asked = [query for each in case.embeddings for query in queries(each, prompts.values())]
    asked += queries(case.embeddings[0], [prompts["click"]], multimask=False)
    found, waits = case.decode(asked)
    assert waits == 1, case.device.waits
    assert [len(each.planes) for each in found] == [3] * (len(asked) - 1) + [1]


@cases("sam1", "sam2", "head", dtypes=[torch.bfloat16])
def test_a_threshold_waits_once_more_to_choose_the_masks(case: Case) -> None:
    clicks = [VisualPrompt(point[None], LABELS[:1], threshold=0.7) for point in POINTS]
    asked = [query for each in case.embeddings for query in queries(each, clicks)]
    found, waits = case.decode(asked)
    assert waits == 2, case.device.waits
    assert 0 < sum(len(each.planes) for each in found) < 3 * len(asked)


@cases("sam3")
def test_concepts_wait_twice_however_many(case: Case) -> None:
    prompts = concept_prompts(0.5)
    one, waits = case.decode(queries(case.embeddings[0], prompts[:1]))
    assert waits == 2, case.device.waits
    asked = queries(case.embeddings[0], prompts[1:4]) + queries(case.embeddings[1], prompts[3:])
    found, waits = case.decode(asked)
    assert waits == 2, case.device.waits
    for answer in [*one, *found]:
        assert len(answer.planes) > 0
        assert answer.planes.dtype == answer.scores.dtype == np.float32


@cases("sam3", dtypes=[torch.bfloat16])
def test_concepts_that_are_absent_wait_for_the_scores_only(case: Case) -> None:
    found, waits = case.decode(queries(case.embeddings[0], concept_prompts(1.0)[:2]))
    assert waits == 1, case.device.waits
    assert [len(each.planes) for each in found] == [0] * len(found)


@cases("lite", dtypes=[torch.bfloat16])
def test_lite_text_waits_no_more(case: Case) -> None:
    """Its text encoder sees padding, so it needs a mask; everything else is that of SAM 3."""
    assert case.encode_waits == []
    found, waits = case.decode(queries(case.embeddings[0], concept_prompts(0.5)[:2]))
    assert waits == 2, case.device.waits
    assert len(found) == 2


@cases("sam1", "sam2", "head", dtypes=[torch.bfloat16])
def test_masks_that_the_device_makes_are_no_further_wait(case: Case) -> None:
    case.engine._predictor._masks = DeviceMasks(replace(case.engine._compute, masks_from=8))
    prompts = visual_prompts(case.engine)
    clicks = [prompts["click"]] * 4
    for logits in (False, True):
        asked = [query for each in case.embeddings for query in queries(each, clicks, masks=True)]
        asked = [replace(query, logits=logits) for query in asked]
        found, waits = case.decode(asked)
        assert waits == 1, case.device.waits
        for answer in found:
            assert answer.runs is not None
            assert len(answer.runs) == len(answer.planes) == len(answer.scores) == 3
            assert (answer.logits is not None) == logits
    (few,), waits = case.decode(queries(case.embeddings[0], clicks[:1], masks=True))
    assert (waits, few.runs) == (1, None)


@cases("sam3", dtypes=[torch.bfloat16])
def test_masks_of_concepts_that_the_device_makes_are_no_further_wait(case: Case) -> None:
    case.engine._masks = DeviceMasks(replace(case.engine._compute, masks_from=8))
    prompts = concept_prompts(0.5)[:2]
    asked = [query for each in case.embeddings for query in queries(each, prompts, masks=True)]
    found, waits = case.decode(asked)
    case.engine._masks = DeviceMasks(case.engine._compute)
    assert waits == 2, case.device.waits
    for answer in found:
        assert answer.runs is not None
        assert len(answer.runs) == len(answer.scores) > 0


@cases("sam1", "sam2", "head", "sam3", dtypes=[torch.bfloat16])
def test_what_graphs_record_neither_waits_nor_reads_the_host(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph would repeat a copy from memory that belongs to something else by then."""
    recorded: list[tuple[int, int]] = []

    def record(body: Body, inputs: Sequence[Tensor]) -> Recorded:
        waits, copies = len(case.device.waits), len(case.device.copies)
        outputs = body(inputs)
        assert {each.device for each in (*inputs, *outputs)} == {torch.device("cuda:0")}
        recorded.append((len(case.device.waits) - waits, len(case.device.copies) - copies))
        return lambda: None, outputs

    monkeypatch.setattr(cuda_graphs, "_are_equal", lambda found, expected: True)
    is_sam3 = isinstance(case.engine, ConceptEngine)
    owner = case.engine._decoder if is_sam3 else case.engine._predictor
    monkeypatch.setattr(owner, "_graphs", Graphs(torch.device("cuda:0"), 64, record=record))
    every: list[Any] = concept_prompts(0.5)[:3]
    if not is_sam3:
        forms = visual_prompts(case.engine)
        every = [forms[name] for name in ("click", "box and points", "mask, box and click")]
    for _ in range(2):
        found, waits = case.decode(queries(case.embeddings[0], every))
    assert waits == (2 if is_sam3 else 1)
    assert len(found) == len(every)
    assert recorded == [(0, 0)] * len(recorded)
    assert len(recorded) == (1 if is_sam3 else len(every))


def test_the_fake_device_finds_what_a_device_would_refuse_or_wait_for() -> None:
    device = FakeDevice()
    with fake_device(device):
        there = torch.ones(3).to("cuda", non_blocking=True)
        assert device.waits == []
        with pytest.raises(AssertionError, match="cpu"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError):
            there.sum().item()
        with pytest.raises(RuntimeError):
            there[there > 0]
        there.cpu().numpy()
        torch.tensor([1.0], device="cuda")
        there[torch.tensor([0])]
        assert len(device.waits) == 3
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert (there[None] @ there[:, None]).dtype == torch.bfloat16
