"""The documentation says what the program does."""

import re
from pathlib import Path

from gateway.cli.configuration import page
from gateway.cli.main import COMMANDS

ROOT = Path(__file__).parents[3]


def test_configuration_page_is_what_the_settings_say() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == page(), "run `make docs`"


def test_readme_names_only_commands_and_targets_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\blmaas ([a-z]+)\b", readme)) <= set(COMMANDS)
    assert set(re.findall(r"\bmake ([a-z-]+)\b", readme)) <= targets
