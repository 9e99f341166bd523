"""Lines printed while something starts."""

import re
import time

import pytest

from gateway.cli.start_report import StartReport
from tests.conftest import PATIENCE_S


def test_line_is_repeated_with_its_seconds_while_no_other_follows(
    capfd: pytest.CaptureFixture[str],
) -> None:
    printed = ""
    deadline_s = time.monotonic() + PATIENCE_S
    with StartReport(report_s=0.05) as report:
        report("loading the model")
        while printed.count("loading the model, 0 s") < 2:
            assert time.monotonic() < deadline_s
            printed += capfd.readouterr().err
    assert re.match(r" +\d+\.\d s  loading the model\n", printed)


def test_nothing_is_repeated_after_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    with StartReport(report_s=0.01) as report:
        report("loading the model")
        report.end()
        capfd.readouterr()
        time.sleep(0.1)
        report("ready")
    assert capfd.readouterr().err.endswith("s  ready\n")
