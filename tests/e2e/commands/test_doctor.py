"""`lmaas doctor` as an operator runs it, with the gateway running and without one."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import PATIENCE_S

Environment = Callable[..., dict[str, str]]
PARTS = {
    "settings", "server", "port", "permissions", "disk", "spool", "database", "model", "engine",
    "memory", "kernel", "predictor",
}  # fmt: skip


def doctor(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "doctor", *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


async def test_a_running_gateway_has_no_failure(served: Any, environment: Environment) -> None:
    given = environment(served.data_dir)
    done = doctor(given, "--json")
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert found["failures"] == 0
    findings = {each["part"]: each for each in found["findings"]}
    assert set(findings) == PARTS | {"migrations", "predictions"}
    assert served.url in findings["server"]["message"]
    assert "lmaas-demo on cpu" in findings["engine"]["message"]
    assert findings["predictor"]["status"] == "ok"
    assert (await served.health())["status"] == "ready"


def test_a_stopped_gateway_with_a_wrong_setting_fails_in_that_alone(
    environment: Environment, tmp_path: Path
) -> None:
    given = environment(tmp_path / "data", LMAAS_PROT="8000", LMAAS_ADMIN_KEY="sk-of-this-test")
    done = doctor(given)
    assert done.returncode == 1, done.stdout
    lines = [line for line in done.stdout.splitlines() if line[:1].strip()]
    states = {line[8:].split()[0]: line.split()[0] for line in lines[:-1]}
    assert set(states) == PARTS
    assert {part for part, state in states.items() if state == "failure"} == {"settings"}
    assert "rename it to LMAAS_PORT" in done.stdout
    assert "sk-of-this-test" not in done.stdout + done.stderr
    assert not (tmp_path / "data").exists()
