"""Alert rules fire when they should; they and the dashboard read series that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.metric_families import metric_families

ROOT: Final = Path(__file__).parents[3]
RULES: Final = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "lmaas.json"
PROMTOOL: Final = shutil.which("promtool")
VARIABLES: Final = {"$__rate_interval": "5m", "$instance": ".+"}  # Grafana fills them in
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Prometheus)")


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    return (each for each in json.loads(DASHBOARD.read_text())["panels"] if each["type"] != "row")


def shown() -> list[str]:
    """The queries of the dashboard."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def series() -> set[str]:
    """The series of a gateway, as Prometheus names them."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return {name + suffix for name, kind in metric_families().items() for suffix in suffixes[kind]}


@pytest.mark.parametrize("query", [*(rule["expr"] for rule in alerts()), *shown()])
def test_series_of_a_query_exist(query: str) -> None:
    named = set(re.findall(r"\blmaas_\w+", query))
    assert named or "up{" in query
    assert named - series() == set()


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(Path(__file__).with_name("alerts_test.yaml")))


def test_each_alert_is_seen_to_fire() -> None:
    cases = Path(__file__).with_name("alerts_test.yaml").read_text()
    assert {rule["alert"] for rule in alerts()} == set(re.findall(r'alertname="(\w+)"', cases))


@needs_promtool
def test_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    queries = shown()
    assert len(queries) > 20
    for variable, value in VARIABLES.items():
        queries = [query.replace(variable, value) for query in queries]
    rules = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_panels_overlap_nowhere() -> None:
    taken = [
        (x, y)
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    explained = re.findall(r"^\| `(Lmaas\w+)` \| (\w+) \|", page, re.MULTILINE)
    assert explained == [(rule["alert"], rule["labels"]["severity"]) for rule in alerts()]
