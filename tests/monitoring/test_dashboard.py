"""deploy/'s dashboard and alerts ask for numbers that there are, in PromQL that can be read."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.monitoring.scraping import Scrape
from tests.monitoring.test_numbers import everything
from tests.service import ROOT, Service, sign_up

DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
ALERTS = ROOT / "deploy" / "alerts.yml"
# What Prometheus says of a target itself, and the labels that it adds.
ITS_METRICS = {"up"}
ITS_LABELS = {"instance", "job"}


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    read: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return read


def panels() -> list[dict[str, Any]]:
    """Its panels, without the headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def targets() -> list[dict[str, Any]]:
    """What the panels ask for."""
    return [target for panel in panels() for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def shown() -> list[str]:
    """The dashboard's expressions, with what Grafana puts in for its variables."""
    put_in = {"$__rate_interval": "1m", "$instance": "127.0.0.1:8002"}
    pattern = re.compile("|".join(map(re.escape, put_in)))
    return [pattern.sub(lambda found: put_in[found[0]], target["expr"]) for target in targets()]


class Read:
    """What an expression asks for."""

    def __init__(self, expression: str) -> None:
        self.metrics: set[str] = set()
        self.matched: set[tuple[str, str, str]] = set()
        self.labels: set[str] = set()
        promql_parser.walk(promql_parser.parse(expression), self._visit)

    def _visit(self, node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name
            self.metrics.add(node.name)
            for one in node.matchers.matchers:
                self.matched.add((node.name, one.name, one.value))
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            self.labels.update(node.modifier.labels)


@pytest.fixture(scope="module")
def found(monitored: Service, settings: dict[str, str]) -> Scrape:
    """A scrape in which nothing is missing."""
    folder = Path(settings["BACKUP_DIR"])
    folder.mkdir(exist_ok=True)
    return everything(monitored, sign_up(monitored), folder)


def test_what_is_asked_for_is_there(found: Scrape) -> None:
    """A panel for a metric that was renamed shows nothing, and an alert on it never comes."""
    expressions = [*shown(), *(rule["expr"] for rule in rules())]
    assert len(expressions) > 50
    for expression in expressions:
        read = Read(expression)
        assert read.metrics
        assert read.metrics - ITS_METRICS <= found.names, expression
        assert read.labels <= labels(found, read.metrics), expression
        for metric, label, value in read.matched:
            assert label in labels(found, {metric}), expression
            if label in ("outcome", "stream"):
                assert found.values(metric, **{label: value}), expression


def labels(found: Scrape, metrics: set[str]) -> set[str]:
    """The labels of these metrics."""
    names = {name for s in found.samples if s.name in metrics for name in s.labels}
    return names | ITS_LABELS


def test_every_number_has_a_place_on_the_dashboard(found: Scrape) -> None:
    """One that nobody sees need not be counted."""
    asked = {metric for expression in shown() for metric in Read(expression).metrics}
    for family in found.families:
        if family.name.startswith("clawd_"):
            assert {sample.name for sample in family.samples} & asked, family.name


def test_legends_name_labels_that_are_left() -> None:
    """What an aggregation has dropped is an empty legend."""
    for target, expression in zip(targets(), shown(), strict=True):
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert named <= Read(expression).labels, target


def test_the_dashboard_can_be_imported() -> None:
    """Into any Grafana: it brings no data source of its own, and asks which instance."""
    read = dashboard()
    assert read["schemaVersion"] >= 36
    assert (read["uid"], read.get("id")) == ("clawd-backend", None)
    variables = {variable["name"]: variable for variable in read["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert "clawd_build_info" in variables["instance"]["definition"]
    ids = [panel["id"] for panel in read["panels"]]
    assert len(ids) == len(set(ids))
    for thing in (variables["instance"], *panels(), *targets()):
        assert thing["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in targets():
        assert 'instance=~"$instance"' in target["expr"]


def test_panels_do_not_overlap() -> None:
    """Each has a place of its own on the grid of 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_alerts_say_what_is_wrong() -> None:
    """Each has a name, how bad it is, and a sentence with labels that it has."""
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        summary = rule["annotations"]["summary"]
        assert re.fullmatch(r".*\.", summary), rule
        read = Read(rule["expr"])
        if read.labels:
            assert set(re.findall(r"\$labels\.(\w+)", summary)) <= read.labels, rule
