"""`deploy/systemd/lmaas.service`, as systemd reads it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.settings import Settings

UNIT = Path(__file__).parents[3] / "deploy" / "systemd" / "lmaas.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/lmaas/bin/lmaas", "/bin/true"))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_gateway_is_given_time_to_stop() -> None:
    stop_s = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert stop_s is not None
    settings = Settings()
    assert int(stop_s[1]) > settings.stop_delay_s + settings.drain_s
