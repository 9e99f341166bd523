"""The documentation says what the program does."""

import re
from pathlib import Path

from gateway.cli.configuration import page
from gateway.cli.main import COMMANDS
from gateway.errors import DeadlineUnreachable, QueueTimeExceeded, RequestCancelled
from gateway.generation.metrics import Metrics

ROOT = Path(__file__).parents[3]


def test_configuration_page_is_what_the_settings_say() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == page(), "run `make docs`"


def test_readme_names_only_commands_and_targets_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\blmaas ([a-z]+)\b", readme)) <= set(COMMANDS)
    assert set(re.findall(r"\bmake ([a-z-]+)\b", readme)) <= targets


def test_every_series_of_metrics_is_documented() -> None:
    page = (ROOT / "docs" / "scheduling.md").read_text()
    metrics = Metrics()
    registries = (metrics.registry, metrics.tenants.registry)
    told = {family.name for registry in registries for family in registry.collect()}
    gauges = (ROOT / "gateway" / "api" / "metrics.py").read_text()
    told |= set(re.findall(r'"(lmaas_\w+)"', gauges))
    assert len(told) > 20
    assert {name for name in told if name not in page} == set()


def test_every_reason_to_be_given_up_is_documented() -> None:
    page = (ROOT / "docs" / "scheduling.md").read_text()
    for error in (DeadlineUnreachable, QueueTimeExceeded, RequestCancelled):
        assert f"`{error.code}`" in page
