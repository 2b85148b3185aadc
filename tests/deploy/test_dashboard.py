"""Dashboard and alerts: the queried metrics and labels exist on a server that has had requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.api.pictures import Picture, click, noise
from tests.api.serving import TIMEOUT, VISUAL, Running, until

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/inference-server.json").read_bytes())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
ON_A_GPU = {"inference_device_memory_bytes"}
MADE_BY_PROMETHEUS = {"up"}
_FUNCTIONS = {"sum", "min", "max", "rate", "histogram_quantile", "label_values", "by", "and"}


def panels() -> Iterator[dict[str, Any]]:
    """Yield all panels except rows."""
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> list[str]:
    """Return all queries to Prometheus."""
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    asked += [v["definition"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    return asked + [rule["expr"] for rule in RULES]


def metrics(expression: str) -> dict[str, set[str]]:
    """Return the metrics in an expression, and the labels that select each of them."""
    found: dict[str, set[str]] = {}
    # Grouping labels, ranges and arguments of `label_values` are not metrics.
    text = re.sub(r"\bby \([^)]*\)|\[[^\]]*\]|, (?:job|instance)\)$", " ", expression)
    for name, braces in re.findall(r"\b([a-z_]{2,}[a-z0-9_]*)\b\s*(\{[^}]*\})?", _outside(text)):
        if name not in _FUNCTIONS:
            labels = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", braces))
            found.setdefault(name, set()).update(labels)
    return found


def _outside(text: str) -> str:
    """Return the text without quoted strings."""
    return re.sub(r'"[^"]*"', '""', text)


@pytest.fixture(scope="module")
def samples(server: Running, picture: Picture) -> dict[str, set[str]]:
    """Names and labels of the samples of a server that has had requests of each kind."""
    for _ in range(2):
        server.visual(picture.sent, click(picture.scene.objects[0]))
    server.concept(noise(3), "red circle")
    assert server.post(VISUAL, {"image": noise(4)}, key="wrong").status_code == 401
    nowhere = {"type": "url", "value": "http://127.0.0.1:1/nothing.png"}
    assert server.post(VISUAL, {"image": nowhere}).status_code == 400
    job = server.answer("/v2/sam3-image", image=noise(5)["value"], text_prompt="star")
    path = f"/v2/requests/{job['request_id']}"
    until(lambda: server.get(path).json()["status"] == "COMPLETED", TIMEOUT)
    # The job is counted after its result is stored.
    until(lambda: server.metric("inference_jobs_total") > 0)
    # Metrics of jobs are absent while the database is slow.
    text = ""
    while "\ninference_jobs_database_up 1.0\n" not in text:
        text = server.get("/metrics").text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_queried_metrics_exist(samples: dict[str, set[str]]) -> None:
    asked = [found for expression in expressions() for found in metrics(expression).items()]
    assert len({name for name, _ in asked}) > 35
    for name, labels in asked:
        if name in MADE_BY_PROMETHEUS | ON_A_GPU:
            continue
        assert name in samples, name
        # Prometheus adds these two labels.
        assert labels - {"job", "instance"} <= samples[name], name


def test_every_metric_of_the_server_is_shown(samples: dict[str, set[str]]) -> None:
    shown = {name for expression in expressions() for name in metrics(expression)}
    own = {
        re.sub(r"_(count|sum|bucket|created)$", "", name)
        for name in samples
        if name.startswith("inference_")
    }
    shown = {re.sub(r"_(count|sum|bucket)$", "", name) for name in shown}
    # `_created` replaces the suffix `_total` of counters.
    created = {name.removesuffix("_created") for name in samples if name.endswith("_created")}
    assert own - created - shown == {"inference_requests_in_flight_max"}


def test_labels_are_bounded(server: Running, samples: dict[str, set[str]]) -> None:
    """Clients cannot create label values."""
    del samples
    before = len(server.get("/metrics").text.splitlines())
    for number in range(30):
        server.get(f"/nothing/{number}?x={number}")
        server.post(VISUAL, {"image": noise(4)}, key=f"wrong-{number}")
        server.post(f"/v1/model-{number}", {"image": "x"})
        server.post(f"/v2/model-{number}", {"image": "x"})
        server.get(f"/v2/requests/{number}")
        server.answer(VISUAL, image=noise(6), image_id=f"dashboard-{number}")
    after = server.get("/metrics").text
    # New combinations of route, status and reason, each with a `_created` sample.
    assert len(after.splitlines()) < before + 120
    assert not re.search(r'="[^"]*(nothing|wrong|model-|dashboard)[^"]*"', after)


def test_the_dashboard_can_be_imported() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    every = list(DASHBOARD["panels"])
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert [target["refId"] for target in panel["targets"]]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= {*variables, "__rate_interval"}
            assert {"job", "instance"} <= used


def test_braces_of_expressions_are_closed() -> None:
    for expression in expressions():
        text = _outside(expression)
        for left, right in ("()", "{}", "[]"):
            assert text.count(left) == text.count(right), expression


def test_alerts_have_summary_severity_and_duration() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 8
    for rule in RULES:
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]


def test_prometheus_and_grafana_find_the_files() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
    for file in prometheus["rule_files"]:
        assert (DEPLOY / "prometheus" / file).exists()
    (job,) = prometheus["scrape_configs"]
    # The alert for a server that is down selects this job.
    assert f'job="{job["job_name"]}"' in next(r["expr"] for r in RULES if "Down" in r["alert"])
