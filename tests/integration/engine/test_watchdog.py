"""The engine under its own watchdog, as `lmaas engine` runs it."""

import json
import signal
from collections.abc import Callable

import psutil
import pytest

from tests.conftest import PATIENCE_S
from tests.integration.engine.conftest import EngineProcess

Start = Callable[[], EngineProcess]


@pytest.fixture
def start_watched(start_engine: Callable[..., EngineProcess]) -> Start:
    """Starts engines that may be silent for two seconds."""

    def start() -> EngineProcess:
        made = start_engine(program=("-m", "engine.watchdog"), LMAAS_MAX_ENGINE_SILENCE_S="2")
        made.wait_until_ready()
        return made

    return start


def engine_of(watched: EngineProcess) -> psutil.Process:
    [child] = psutil.Process(watched.process.pid).children()
    return child


def until_seen_to_serve(watched: EngineProcess) -> None:
    """Return once the watchdog has seen the engine serve: a start may be silent for a minute."""
    assert watched.process.stderr is not None
    assert any('"engine_serves"' in line for line in watched.process.stderr)


def test_engine_that_stands_still_is_killed_and_may_be_started_again(start_watched: Start) -> None:
    watched = start_watched()
    until_seen_to_serve(watched)
    engine = engine_of(watched)
    engine.suspend()
    code, _, error = watched.ended()
    assert code == 1
    last = json.loads(error.splitlines()[-1])
    assert (last["event"], last["pid"]) == ("engine_silent", engine.pid)
    assert not engine.is_running()


def test_code_of_an_engine_that_dies_is_passed_on(start_watched: Start) -> None:
    watched = start_watched()
    engine_of(watched).kill()
    assert watched.ended()[0] == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_both_and_removes_the_socket(
    start_watched: Start, number: signal.Signals
) -> None:
    watched = start_watched()
    watched.process.send_signal(number)
    assert watched.ended()[0] == 0
    assert not watched.socket.exists()


def test_engine_ends_with_a_watchdog_that_is_killed(start_watched: Start) -> None:
    watched = start_watched()
    engine = engine_of(watched)
    watched.process.kill()
    assert engine.wait(PATIENCE_S) is None  # of a process that is not our child
    watched.ended()


def test_wrong_setting_is_reported_by_the_engine(
    start_engine: Callable[..., EngineProcess],
) -> None:
    watched = start_engine(program=("-m", "engine.watchdog"), LMAAS_PAGE_TOKENS="none")
    code, _, error = watched.ended()
    assert code == 2
    assert error.startswith("engine: LMAAS_PAGE_TOKENS")
