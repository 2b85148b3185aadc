"""CUDA graphs with the recording replaced: shapes, copies, checks and the way back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from inference_server.engines.base import ConceptPrompt, VisualPrompt, queries
from inference_server.engines.cuda_graphs import Body, Graphs, Recorded, bucket
from inference_server.engines.loaded_weights import Sam3Engines
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.warm_up import CLICKS, warm_up
from tests.engines.conftest import CPU, Concept, Picture

HERE = torch.device("cpu")


class Recordings:
    """Records work as CUDA does: a replay reads the recorded inputs and writes the same outputs.

    All recordings write to the same memory in between, so a result that is not copied is lost.
    """

    def __init__(self) -> None:
        self.replays = 0
        self.wrong = 0.0
        self._outputs: list[Tensor] = []

    def __call__(self, body: Body, inputs: Sequence[Tensor]) -> Recorded:
        outputs = tuple(torch.empty_like(each) for each in body(inputs))
        self._outputs += outputs

        def replay() -> None:
            self.replays += 1
            for each in self._outputs:
                each.fill_(torch.nan)
            for own, found in zip(outputs, body(inputs), strict=True):
                own.copy_(found + self.wrong)

        return replay, outputs


def doubled(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(2 * each for each in inputs)


def test_the_second_use_of_a_shape_records_and_later_ones_replay() -> None:
    recordings = Recordings()
    graphs = Graphs(HERE, 4, record=recordings)
    results = []
    for turn in range(5):
        given = torch.full((3,), float(turn))
        results.append(graphs("double", doubled, [given])[0])
        assert given.tolist() == [turn] * 3
        assert graphs.count == min(turn, 1)
    assert recordings.replays == 1 + 3, "the check, and three uses"
    assert [each.tolist() for each in results] == [[2.0 * turn] * 3 for turn in range(5)]


def test_shapes_dtypes_and_keys_have_graphs_of_their_own() -> None:
    graphs = Graphs(HERE, 8, record=Recordings())
    for _ in range(3):
        for key, given in (
            ("a", torch.ones(2)),
            ("a", torch.ones(3)),
            ("a", torch.ones(2, dtype=torch.float64)),
            ("b", torch.ones(2)),
        ):
            (found,) = graphs(key, doubled, [given])
            assert torch.equal(found, 2 * given)
    assert graphs.count == 4


def test_beyond_the_limit_work_runs_without_a_graph() -> None:
    recordings = Recordings()
    graphs = Graphs(HERE, 1, record=recordings)
    for size in (2, 2, 3, 3, 3):
        assert graphs("a", doubled, [torch.ones(size)])[0].tolist() == [2.0] * size
    assert (graphs.count, recordings.replays) == (1, 1)


@pytest.mark.parametrize("failure", ["recording", "results"])
def test_a_failure_is_logged_and_answers_come_without_graphs(
    failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    recordings = Recordings()
    recordings.wrong = 1.0

    def fails(body: Body, inputs: Sequence[Tensor]) -> Recorded:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs = Graphs(HERE, 4, record=fails if failure == "recording" else recordings)
    for turn in range(4):
        assert graphs("a", doubled, [torch.full((2,), float(turn))])[0].tolist() == [2.0 * turn] * 2
    assert not graphs.enabled
    assert graphs.count == 0
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "INFERENCE_CUDA_GRAPHS=0" in record.message
    assert "more" not in record.message
    expected = "not permitted" if failure == "recording" else "results differ"
    assert expected in record.message


def test_without_cuda_there_are_no_graphs() -> None:
    graphs = Graphs(HERE, 4)
    assert not graphs.enabled
    assert graphs("a", doubled, [torch.ones(1)])[0].tolist() == [2.0]
    assert not Graphs(torch.device("cuda"), 0).enabled


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, None)])
def test_batches_are_padded_to_powers_of_two(count: int, size: int | None) -> None:
    assert bucket(count, 8) == size


def same(found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for one, like in zip(found, wanted, strict=True):
        assert np.allclose(one.scores, like.scores, atol=1e-4)
        assert one.planes.shape == like.planes.shape
        assert np.allclose(one.planes, like.planes, atol=1e-3)
        assert (one.logits is None) == (like.logits is None)


def graphed(engine: Any) -> tuple[Graphs, Recordings]:
    """Let an engine for points and boxes use graphs."""
    recordings = Recordings()
    engine._predictor._graphs = graphs = Graphs(HERE, 64, record=recordings)
    return graphs, recordings


def points(*at: tuple[float, float]) -> VisualPrompt:
    return VisualPrompt(np.array(at, np.float32).reshape(-1, 2), np.ones(len(at), np.int64))


def test_answers_to_points_boxes_and_masks_do_not_change(
    sam2_model: SAM2Base, visual: VisualEngine, pictures: dict[str, Picture]
) -> None:
    engine = VisualEngine(sam2_model, "random", CPU)
    graphs, recordings = graphed(engine)
    images = [engine.prepare(pictures[name]) for name in ("wide", "tall")]
    one, other = engine.encode(images)
    box = VisualPrompt(
        np.empty((0, 2), np.float32), np.empty(0, np.int64), np.array([5, 5, 60, 50], np.float32)
    )
    mask = np.full((engine.side // 4,) * 2, 3.0, np.float32)
    refined = replace(points((20, 20)), mask_input=mask)
    clicks = [points((10 * i + 5.0, 30)) for i in range(5)]
    batches = [
        queries(one, clicks[:1]),
        queries(other, clicks[1:2]),
        queries(one, clicks[:3], best=True),
        queries(one, clicks),
        queries(one, [box, box, refined], multimask=False),
        [*queries(one, clicks[:2]), *queries(other, clicks[2:3])],
        queries(other, [points((1, 2), (30, 40)), box], logits=False),
    ]
    for _ in range(3):
        for batch in batches:
            same(engine.decode(batch), visual.decode(batch))
    assert graphs.count == 7, "one for both first batches, two for the fifth"
    assert recordings.replays > graphs.count
    count = graphs.count
    for _ in range(2):
        low = [replace(prompt, threshold=0.3) for prompt in clicks[:2]]
        same(engine.decode(queries(one, low)), visual.decode(queries(one, low)))
    assert graphs.count == count, "a threshold waits for the device in the middle"


def test_prompts_without_points_keep_their_number(
    sam2_model: SAM2Base, visual: VisualEngine, pictures: dict[str, Picture]
) -> None:
    """All of their tensors are those of the image, whatever their number."""
    engine = VisualEngine(sam2_model, "random", CPU)
    graphs, recordings = graphed(engine)
    (one,) = engine.encode([engine.prepare(pictures["wide"])])
    for _ in range(3):
        for count in (1, 2, 4):
            batch = queries(one, [points()] * count)
            same(engine.decode(batch), visual.decode(batch))
    assert graphs.count == 3
    assert recordings.replays > graphs.count


def test_answers_to_texts_do_not_change(concept: Concept, pictures: dict[str, Picture]) -> None:
    engine = ConceptEngine(concept.model, concept.processor, "random", CPU)
    recordings = Recordings()
    engine._decoder._graphs = graphs = Graphs(HERE, 16, record=recordings)
    embedding, other = engine.encode([engine.prepare(pictures[name]) for name in ("wide", "tall")])
    nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64)
    boxes = np.array([[5, 5, 40, 30], [1, 2, 30, 9]], np.float32), np.array([1, 0])
    asked = [
        ConceptPrompt("red circle", *nothing, 0.3),
        ConceptPrompt("a very large blue star behind all the others", *nothing, 0.3),
        ConceptPrompt("star", *boxes, 0.3),
    ]
    batches = [
        *(queries(embedding, [prompt]) for prompt in asked),
        queries(embedding, asked),
        [*queries(embedding, asked[:1]), *queries(other, asked[:1])],
    ]
    for _ in range(3):
        for batch in batches:
            found, wanted = engine.decode(batch), concept.engine.decode(batch)
            same(found, wanted)
            for one, like in zip(found, wanted, strict=True):
                assert one.boxes is not None
                assert like.boxes is not None
                assert np.allclose(one.boxes, like.boxes, atol=1e-3)
    assert graphs.count == 3, "tokens in eights: 8, 16, and three prompts of 16"


def test_warming_records_what_clicks_and_texts_need(
    sam2_model: SAM2Base, concept: Concept, pictures: dict[str, Picture]
) -> None:
    engine = VisualEngine(sam2_model, "random", CPU)
    graphs, recordings = graphed(engine)
    warm_up(engine)
    assert graphs.count == 4 * len(CLICKS)
    (embedding,) = engine.encode([engine.prepare(pictures["wide"])])
    replays = recordings.replays
    engine.decode(queries(embedding, [points((9, 9))], best=True))
    assert (graphs.count, recordings.replays) == (4 * len(CLICKS), replays + 1)

    words = ConceptEngine(deepcopy(concept.model), concept.processor, "random", CPU)
    words._decoder._graphs = graphs = Graphs(HERE, 64, record=recordings)
    warm_up(Sam3Engines(words))
    count, replays = graphs.count, recordings.replays
    (embedding,) = words.encode([words.prepare(pictures["wide"])])
    nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64)
    words.decode(queries(embedding, [ConceptPrompt("red star", *nothing)]))
    assert (graphs.count, recordings.replays) == (count, replays + 1)


def test_a_model_that_cannot_be_warmed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def prepare(self, pixels: object) -> None:
            raise RuntimeError("out of memory")

    broken: Any = Broken()
    warm_up(broken)
    (record,) = caplog.records
    assert "first requests are slower" in record.message
