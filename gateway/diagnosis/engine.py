"""Checks the engine: whether it answers or, if none runs, could start; its kernel and memory."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx
import msgspec
from msgspec import Struct

from engine.protocol import EngineInfo, Starting
from gateway.child_process import child_environment
from gateway.diagnosis.finding import Finding, Status, failure, ok, warning
from gateway.diagnosis.memory import MemoryNeeds, check_memory
from gateway.diagnosis.model import local_folder
from gateway.engines.start import engine_environment, engine_sockets
from gateway.errors import StartupFailure
from gateway.settings import Settings

ANSWER_S: Final = 5.0
EXAMINATION_S: Final = 150.0  # imports torch, and compiles the kernel if need be
COMMAND: Final = (sys.executable, "-m", "engine.examination")
PARTS: Final = ("engine", "memory", "kernel")


class _Fact(Struct, frozen=True):
    """A line of the engine's examination, see `engine.examination.Fact`."""

    part: str
    status: Status
    message: str
    remedy: str = ""
    numbers: dict[str, int] = {}


def check_engine(settings: Settings, *, running: bool) -> Iterator[Finding]:
    """The engine's answer on its socket, or whether it could start; then kernel and memory.

    Of several engines the first is examined, of the others only whether they answer.
    """
    try:
        path, *others = engine_sockets(settings)
    except StartupFailure as error:
        yield failure("engine", str(error), "correct the setting that it names")
        return
    for other in others:
        yield _answer(_ask(other)) or failure(
            "engine",
            f"LMAAS_ENGINE_SOCKET: no engine answers on {other}",
            "start it by `lmaas engine`, or take it out of LMAAS_ENGINE_SOCKET",
        )
    info = _ask(path)
    answer = _answer(info)
    if answer is not None:
        yield answer
    elif running or settings.engine_socket:
        yield _unanswered(settings, path, running=running)
    if isinstance(info, Starting):
        return
    yield from _machine(settings, path, info, running=running)


def _machine(
    settings: Settings, path: Path, info: EngineInfo | None, *, running: bool
) -> Iterator[Finding]:
    """Kernel and memory, and whether the engine could start if none runs."""
    folder = local_folder(settings)
    if folder is None:
        yield warning("kernel", "not checked: there is no model", "see `model`")
        return
    for fact in _examine(settings, folder, path):
        if fact.part == "engine" and (info is not None or running):
            continue
        if fact.part != "memory" or fact.status != "ok":
            yield Finding(fact.part, fact.status, fact.message, fact.remedy)
        elif info is None:
            needs = msgspec.convert(fact.numbers, MemoryNeeds)
            yield check_memory(needs)
        else:
            left = fact.numbers["available"] >> 20
            yield ok("memory", f"the engine has its own; {left:,} MiB are left")


def _unanswered(settings: Settings, path: Path, *, running: bool) -> Finding:
    """No engine answers that should: that of a running gateway, or one started elsewhere."""
    if running:
        log = settings.data_folder / "engine.log"
        return failure(
            "engine",
            f"the gateway runs, but no engine answers on {path}",
            f"see the end of {log}" if log.exists() else "start the engine of this socket",
        )
    return failure(
        "engine",
        f"LMAAS_ENGINE_SOCKET: no engine answers on {path}",
        "start it by `lmaas engine`, or unset LMAAS_ENGINE_SOCKET",
    )


def _answer(info: EngineInfo | Starting | None) -> Finding | None:
    """What an engine's answer says; None without one."""
    if isinstance(info, Starting):
        return warning("engine", f"starts: {info.phase}", "wait until its model is loaded")
    return None if info is None else ok("engine", _described(info))


def _ask(path: Path) -> EngineInfo | Starting | None:
    """What the engine on a socket answers; None if none does in time."""
    if not _listens(path):
        return None
    transport = httpx.HTTPTransport(uds=str(path))
    try:
        with httpx.Client(transport=transport, timeout=ANSWER_S) as client:
            answer = client.get("http://engine/info")
        if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            return msgspec.json.decode(answer.content, type=Starting)
        return msgspec.json.decode(answer.raise_for_status().content, type=EngineInfo)
    except (httpx.HTTPError, msgspec.MsgspecError):
        return None


def _listens(path: Path) -> bool:
    """Whether a process listens on a socket; httpx would leak the socket of a failed attempt."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER_S)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _described(info: EngineInfo) -> str:
    tokens = info.kv.pages * info.kv.page_tokens
    return (
        f"serves {Path(info.model).name} on {info.device} ({info.dtype}), {tokens:,} KV tokens, "
        f"context {info.context_tokens:,}"
    )


def _examine(settings: Settings, folder: Path, path: Path) -> Iterator[_Fact]:
    """What the engine's own examination finds, in a process of its own, which may crash."""
    environment = {
        **child_environment(),
        **engine_environment(settings, str(folder), path),
        "HF_HUB_OFFLINE": "1",
    }
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            COMMAND, env=environment, capture_output=True, timeout=EXAMINATION_S, check=False
        )
        written, why = done.stdout, f"ended with exit code {done.returncode}: {_last(done.stderr)}"
    except subprocess.TimeoutExpired as error:
        written, why = error.stdout or b"", f"took longer than {EXAMINATION_S:.0f} s"
    facts = [msgspec.json.decode(line, type=_Fact) for line in written.splitlines()]
    yield from facts
    stopped = any(fact.status == "failure" and fact.part == "engine" for fact in facts)
    missing = [part for part in PARTS if part not in {fact.part for fact in facts}]
    if missing and not stopped:
        remedy = f"run `{' '.join(map(os.path.basename, COMMAND))}` and report its output"
        yield _Fact(missing[0], "failure", f"its examination {why}", remedy)


def _last(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
