"""The dashboard and the alert rules name metrics and labels that a server has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from metanas_server.observation.metrics import Metrics
from metanas_server.observation.snapshot import Figures, Snapshot, WorkerFigures

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
OF_PROMETHEUS = {"up": {"job", "instance"}}
TARGET = {"job", "instance"}


@pytest.fixture
def metrics(tmp_path: Path) -> dict[str, set[str]]:
    """Labels of each metric by name."""
    counted, figures = Metrics(), Figures(tmp_path, None)
    counted.registry.register(figures)
    worker = WorkerFigures(device="cpu", pid=None, ready=True, adaptations=1)
    figures.snapshot = Snapshot(adaptations={"queued": 1}, workers=(worker,))
    for kind in (counted.rpcs, counted.requests):
        kind.in_progress.labels("Get").inc()
        kind.finished("Get", "OK", 1.0)
    counted.refusal("Get", "REASON", "caller")
    counted.adaptation("failed", "REASON", 1.0)
    counted.stages({"adapt": 1.0})
    samples = [sample for family in counted.registry.collect() for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    text = (DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8")
    listed: list[dict[str, Any]] = json.loads(text)["panels"]
    return listed


def expressions() -> list[str]:
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    return shown + [rule["expr"] for rule in alerts()]


@pytest.mark.parametrize("expression", expressions())
def test_metrics_and_labels_exist(expression: str, metrics: dict[str, set[str]]) -> None:
    known = metrics | OF_PROMETHEUS
    names = re.findall(r"\b(?:metanas|process)_\w+|\bup\b", expression)
    assert names
    assert [name for name in names if name not in known] == []
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)=", matchers)) <= known[name] | TARGET
    grouped = {
        label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")
    }
    assert grouped <= set().union(*(known[name] for name in names)) | TARGET


def test_every_metric_of_the_server_is_shown(metrics: dict[str, set[str]]) -> None:
    text = " ".join(expressions())
    own = {name for name in metrics if name.startswith("metanas_")}
    families = {re.sub("_(bucket|count|sum|created)$", "", name) for name in own}
    assert {name for name in families if name not in text} == set()


def test_each_alert_says_what_to_do() -> None:
    assert all({"summary", "action"} <= set(rule["annotations"]) for rule in alerts())
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in panels()
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
