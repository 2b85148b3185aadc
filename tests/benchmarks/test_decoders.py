"""The benchmark of mask decoders."""

from __future__ import annotations

import torch

from benchmarks import decoders
from benchmarks.encode import BARE, FLOAT32
from benchmarks.encoder_parts import LINEAR, PARTS


def test_every_prompt_is_divided_into_its_parts() -> None:
    threads = torch.get_num_threads()
    report = decoders.run(small=True)
    assert torch.get_num_threads() == threads
    times, parts, floors = (table.rows for table in report.tables)
    expected = {(prompt, way) for prompt in decoders.GOALS for way in (BARE, FLOAT32)}
    assert {(row["prompt"], row["decoder"]) for row in times} >= expected
    ours = [(row["prompt"], row["decoder"]) for row in times if row["decoder"] != BARE]
    for rows in (parts, floors):
        assert [(row["prompt"], row["decoder"]) for row in rows] == ours
    for row in parts:
        shares = [str(row[f"{part} (ms)"]).partition("(")[2].partition("%")[0] for part in PARTS]
        assert 96 <= sum(map(int, shares)) <= 104
        assert not str(row[f"{LINEAR} (ms)"]).endswith("(0%)")
    assert all(float(row["products (GFLOP)"]) > 0 for row in floors)
    assert "**Matrix products alone**" in report.markdown()
