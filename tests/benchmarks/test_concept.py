"""The concept benchmark: it runs and compares masks; durations are not tested."""

from __future__ import annotations

from benchmarks.concept import LEAST_IOU, MASKS, SMALL, TEXTS, passed_by_some, run
from benchmarks.sam3_models import demo
from inference_server.demo.scenes import make_scene
from inference_server.engines.base import queries
from inference_server.engines.sam3.engine import ConceptEngine


def test_texts_differ() -> None:
    assert len(set(TEXTS)) == 16


def test_a_fixed_number_of_candidates_passes_the_threshold() -> None:
    sam3 = demo()
    engine = ConceptEngine(sam3.model, sam3.processor, sam3.name, sam3.compute)
    (embedding,) = engine.encode([engine.prepare(make_scene(1, (64, 48)).image)])
    (found,) = engine.decode(queries(embedding, [passed_by_some(engine, embedding, TEXTS[0])]))
    assert len(found.scores) == MASKS


def test_the_benchmark_runs() -> None:
    report = run(small=True)
    requests, whole, growth = report.tables
    assert [row["texts"] for row in requests.rows] == list(SMALL.counts)
    assert len(whole.rows) == len(growth.rows) == 1
    goals = {goal.what: goal for goal in report.goals}
    assert goals["encoder runs for cached images and texts"].value == 0
    assert goals["IoU with the bare decoder's masks"].value >= LEAST_IOU
    assert "relative to the bare decoder" in report.markdown()
