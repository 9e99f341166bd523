"""What the supervisor reads in the engine's log."""

from pathlib import Path

import pytest

from gateway.engines.supervisor import EngineSupervisor

LINES = {
    "": "",
    "a warning of a library\n": "",
    '{"event": "engine_starting", "phase": "reading weights"}\n': "reading weights",
    '{"event": "engine_starting", "phase": "one"}\n{"event": "engine_starting", "phase": "two"}\n'
    '{"event": "dtype_slow", "reason": "…"}\nnot JSON\n{"event": "engine_star': "two",
}


@pytest.mark.parametrize(("content", "phase"), LINES.items(), ids=range(len(LINES)))
def test_the_phase_is_that_of_the_newest_entry(content: str, phase: str, tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text(content)
    assert EngineSupervisor({"LMAAS_ENGINE_SOCKET": "s"}, log).phase == phase


def test_without_a_log_there_is_no_phase(tmp_path: Path) -> None:
    assert EngineSupervisor({"LMAAS_ENGINE_SOCKET": "s"}, tmp_path / "none").phase == ""
