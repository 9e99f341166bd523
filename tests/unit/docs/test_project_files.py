"""Project files: version, changelog, typing markers, hooks and workflows."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
PACKAGES = ["gateway", "engine", "models", "migrations"]


def test_version_is_stated_in_pyproject_alone() -> None:
    stated = PROJECT["project"]["version"]
    assert version("lmaas") == stated
    sources = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    assert [path for path in sources if f'"{stated}"' in path.read_text()] == []


def test_changelog_has_the_version_below_unreleased() -> None:
    headings = re.findall(r"^## \[(.+?)\](.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == PROJECT["project"]["version"]
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", date) for _, date in headings[1:])


def test_changelog_groups_changes_by_kind() -> None:
    assert set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE)) <= KINDS


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_marked_as_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    assert PROJECT["tool"]["setuptools"]["package-data"]["*"] == ["py.typed"]


@pytest.mark.parametrize(
    "path",
    [".pre-commit-config.yaml", *(str(p.relative_to(ROOT)) for p in ROOT.glob(".github/**/*.yml"))],
)
def test_file_for_a_tool_is_yaml(path: str) -> None:
    assert yaml.safe_load((ROOT / path).read_text())


def test_hooks_and_workflow_run_what_exists() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    entries = [hook["entry"].split() for hook in hooks]
    assert {entry[1] for entry in entries if entry[0] == "make"} <= targets
    modules = {entry[2] for entry in entries if entry[1] == "-m"}
    assert modules == {"checks.commit_message"}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    runs = [step.get("run") for step in workflow["jobs"]["checks"]["steps"]]
    assert ".ci/run" in runs
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
