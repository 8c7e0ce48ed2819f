from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.service.observing import Metrics

FILE = Path(__file__).parents[5] / "docs" / "deploy" / "grafana-dashboard.json"
HOWTO = Path(__file__).parents[5] / "docs" / "howto" / "observe.md"


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return loaded


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def labels_of(metrics: Metrics) -> dict[str, set[str]]:
    """Labels by name of the series."""
    found: dict[str, set[str]] = {"ttc_queue_jobs": {"state"}}
    for metric in vars(metrics).values():
        for name in metrics.names():
            if getattr(metric, "_name", None) is not None and name.startswith(metric._name):
                found.setdefault(name, set()).update(metric._labelnames)
    return found


def test_every_metric_and_label_that_is_shown_exists(dashboard: dict[str, Any]) -> None:
    metrics = Metrics()
    known, labels = metrics.names(), labels_of(metrics)
    for expression in expressions(dashboard):
        used = set(re.findall(r"ttc_[a-z_]+", expression))
        assert used
        assert used <= known, expression
        own = set().union(*(labels.get(name, set()) for name in used)) | {"instance", "le"}
        filtered = set(re.findall(r'([a-z_]+)(?:=~?|!=)"', expression))
        grouped = {name.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for name in group.split(",")}
        assert filtered | grouped <= own, expression


def test_every_metric_is_shown(dashboard: dict[str, Any]) -> None:
    text = " ".join([*expressions(dashboard), json.dumps(dashboard["templating"])])
    missing = {name for name in Metrics().names() if re.sub("_(count|sum|bucket)$", "", name) not in text}
    assert not missing


def test_panels_do_not_overlap_and_have_ids_of_their_own(dashboard: dict[str, Any]) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells, panel["title"]
        cells |= own
    assert max(x for x, _ in cells) < 24
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_the_how_to_lists_every_metric_and_none_besides() -> None:
    listed = set(re.findall(r"`(ttc_[a-z_]+)`", HOWTO.read_text(encoding="utf-8")))
    names = {re.sub("_(count|sum|bucket)$", "", name) for name in Metrics().names()}
    assert listed == names
