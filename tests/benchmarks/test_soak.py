"""The load test passes on a healthy server, and detects wrong responses."""

from __future__ import annotations

from itertools import islice

import httpx
import pytest

from benchmarks import soak
from benchmarks.soak import Tally
from benchmarks.traffic import KINDS, HungUp, Kind, samples
from tests.api.serving import ALICE, Running


def test_all_responses_are_correct_and_documented() -> None:
    report = soak.run(True)
    figures = {goal.what: goal for goal in report.goals}
    of_time = {"memory, last quarter relative to the second", "refused requests (429 or 504)"}
    for what, goal in figures.items():
        assert goal.met or what in of_time, (goal, report.notes)
    answered, memory = report.tables
    counts = {str(row["request"]): row for row in answered.rows}
    assert all(row["other"] == 0 for row in answered.rows)
    for probe in ("/livez", "/readyz", "/metrics"):
        row = counts[f"GET {probe}"]
        assert int(row["200"]) > 0
        assert row["429"] == row["504"] == 0
    assert memory.rows
    assert report.pictures["soak.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_responses_for_another_image_are_detected(kind: Kind, server: Running) -> None:
    one, other = islice(samples(), 2)
    with httpx.Client(
        base_url=server.url, headers={"x-api-key": ALICE}, timeout=120, follow_redirects=True
    ) as http:
        try:
            answer = kind.send(http, one, -1)
        except HungUp:
            return  # cancelled as intended
        assert answer.status_code == 200, answer.text
        assert kind.right(http, answer, one)
        if kind.name != "models":
            assert not kind.right(http, answer, other)


def test_undocumented_responses_are_detected() -> None:
    tally = Tally()
    headers = {"x-request-id": "1"}
    tally.note("click", httpx.Response(200, headers=headers), 1.0)
    tally.note("click", httpx.Response(504, headers={"x-request-id": "2"}), 1.0)
    assert not tally.strange
    tally.note("click", httpx.Response(500, headers={"x-request-id": "3"}), 1.0)
    tally.note("click", httpx.Response(429, headers={"x-request-id": "4"}), 1.0)
    assert len(tally.strange) == 2
    tally.note("click", httpx.Response(200, headers=headers), 1.0)
    assert tally.identities["1"] == 2
