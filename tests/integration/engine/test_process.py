"""The engine's start and end."""

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.service.startup import PHASE_EVENT
from tests.conftest import PATIENCE_S
from tests.unread_pipe import unread_pipe

EXIT_STARTUP_FAILED = 2
BREAKS_ONCE_STARTED = """
import engine.service.process
from engine.__main__ import main
from engine.running.runner import Runner

class Breaking(Runner):
    measured = False

    def measure(self, tokens):
        costs = super().measure(tokens)
        self.measured = True
        return costs

    def _execute(self, *step):
        if self.measured:
            raise RuntimeError("the device is lost")
        return super()._execute(*step)

engine.service.process.Runner = Breaking
raise SystemExit(main())
"""


def one_line(error: str) -> str:
    [line] = error.splitlines()
    return line


async def test_a_stale_socket_is_replaced_and_eof_ends_a_supervised_engine(
    start_engine: Callable, short_folder: Path, connect: Callable, a_sequence: Callable
) -> None:
    path = short_folder / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    engine = start_engine("--supervised", path=path)
    engine.wait_until_ready()
    sequence = a_sequence(max_tokens=4000)
    async with connect(engine) as gateway, gateway.events() as stream:
        await gateway.submit(sequence)
        await stream.until(lambda stream: stream.tokens(sequence.id))
        engine.process.stdin.close()
        engine.process.stdin = None
        code, out, _ = engine.ended()
    assert (code, out) == (0, "")
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_streams_and_process_and_removes_the_socket(
    number: signal.Signals, start_engine: Callable, connect: Callable, a_sequence: Callable
) -> None:
    engine = start_engine()
    engine.wait_until_ready()
    sequence = a_sequence(max_tokens=4000)
    async with connect(engine) as gateway, gateway.events() as stream:
        await gateway.submit(sequence)
        await stream.until(lambda stream: stream.tokens(sequence.id))
        engine.process.send_signal(number)
        await stream.drained()
    code, out, error = engine.ended()
    assert (code, out) == (0, "")
    assert '"event": "engine_stopped"' in error.splitlines()[-1]
    assert not engine.socket.exists()


async def test_an_engine_whose_model_fails_exits_to_be_restarted(
    start_engine: Callable, connect: Callable, a_sequence: Callable
) -> None:
    engine = start_engine(program=("-c", BREAKS_ONCE_STARTED))
    engine.wait_until_ready()
    sequence = a_sequence()
    async with connect(engine) as gateway, gateway.events() as stream:
        await gateway.submit(sequence)
        await stream.drained()
    code, _, error = engine.ended()
    assert code == 1
    assert '"event": "loop_died"' in error
    assert not engine.socket.exists()


HANGS_ONCE_STARTED = BREAKS_ONCE_STARTED.replace(
    'raise RuntimeError("the device is lost")', "import time; time.sleep(1000)"
)


async def test_an_engine_whose_step_hangs_logs_it_and_exits_to_be_restarted(
    start_engine: Callable, connect: Callable, a_sequence: Callable
) -> None:
    engine = start_engine(program=("-c", HANGS_ONCE_STARTED), LMAAS_ENGINE_STEP_LIMIT_S="5")
    engine.wait_until_ready()
    async with connect(engine) as gateway, gateway.events() as stream:
        await gateway.submit(a_sequence())
        await stream.until(lambda stream: [e for e in stream.heartbeats if e.busy_s > 1])
    code, _, error = engine.ended()
    assert code == 1
    assert '"event": "step_hung"' in error


def test_a_missing_model_is_one_line_and_exit_code_2(start_engine: Callable) -> None:
    code, out, error = start_engine(model="/no/such/model").ended()
    assert (code, out) == (EXIT_STARTUP_FAILED, "")
    assert one_line(error) == "engine: LMAAS_MODEL: there is no folder /no/such/model"


def test_the_phases_of_the_start_and_the_reasons_for_its_choices_are_logged(
    start_engine: Callable,
) -> None:
    engine = start_engine(LMAAS_KV_TOKENS="0", LMAAS_ENGINE_DTYPE="float16")
    engine.wait_until_ready()
    engine.process.terminate()
    events = [json.loads(line) for line in engine.ended()[2].splitlines()]
    phases = [event["phase"] for event in events if event["event"] == PHASE_EVENT]
    assert phases == ["importing torch", "reading weights", "allocating memory", "warming up"]
    [started] = [event for event in events if event["event"] == "engine_started"]
    assert started["dtype_reason"] == "set by LMAAS_ENGINE_DTYPE"
    assert started["kv_tokens"] == 64 * 4096  # all that can run; a sequence takes 1 MiB


async def test_calls_during_the_start_are_answered_with_what_it_does(
    start_engine: Callable, connect: Callable
) -> None:
    engine = start_engine()
    found: list[httpx.Response] = []
    async with asyncio.timeout(PATIENCE_S):
        while not found or found[-1].status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            with suppress(httpx.TransportError):
                async with connect(engine) as gateway:
                    found.append(await gateway.http.get("/info"))
            await asyncio.sleep(0.02)
    *starting, served = found
    assert starting, "the start took no time"
    assert {answer.json()["epoch"] for answer in found} == {served.json()["epoch"]}
    assert starting[0].json()["phase"]


def test_an_invalid_setting_is_one_line_and_exit_code_2(start_engine: Callable) -> None:
    code, out, error = start_engine(LMAAS_ENGINE_COLOUR="red").ended()
    assert (code, out) == (EXIT_STARTUP_FAILED, "")
    assert one_line(error).startswith("engine: unknown setting LMAAS_ENGINE_COLOUR; accepted are")


def test_the_engine_ignores_the_gateways_settings(engine: Any, start_engine: Callable) -> None:
    code, out, error = start_engine(path=engine.socket, LMAAS_POLICY="fcfs").ended()
    assert (code, out) == (EXIT_STARTUP_FAILED, "")
    assert one_line(error).startswith("engine: LMAAS_ENGINE_SOCKET: another process serves on")
    assert engine.socket.exists()


async def test_engine_whose_log_is_not_read_serves_and_ends(
    start_engine: Callable, connect: Callable, a_sequence: Callable
) -> None:
    with unread_pipe() as stderr:
        engine = start_engine(stderr=stderr)
        engine.wait_until_ready()
        sequence = a_sequence(max_tokens=8)
        async with connect(engine) as gateway, gateway.events() as stream:
            await gateway.submit(sequence)
            await stream.until(lambda stream: len(stream.tokens(sequence.id)) == 8)
        engine.process.send_signal(signal.SIGTERM)
        code, _, _ = engine.ended()
    assert code == 0
