"""The engine process, and a small client of its socket."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import msgspec
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from engine.protocol import (
    Event,
    Finish,
    Heartbeat,
    Hello,
    Sequence,
    Step,
    Submission,
    SubmitBatch,
    Submitted,
)
from tests.conftest import PATIENCE_S

ROOT = Path(__file__).parents[3]
_events = msgspec.json.Decoder(Event)
_names = count()


@pytest.fixture(scope="session")
def engine_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random Llama and no tokenizer."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        eos_token_id=2,
    )
    folder = tmp_path_factory.mktemp("engine") / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="lmaas-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class EngineProcess:
    """`python -m engine` with its own socket."""

    def __init__(
        self,
        path: Path,
        model: Path | str,
        arguments: tuple[str, ...],
        stderr: int,
        settings: dict[str, str],
    ) -> None:
        self.socket = path
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "LMAAS_MODEL": str(model),
            "LMAAS_ENGINE_SOCKET": str(path),
            "LMAAS_KV_TOKENS": "4096",
            **settings,
        }
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def wait_until_ready(self) -> None:
        """Wait until the engine serves; fail with its error output otherwise."""
        end = monotonic() + PATIENCE_S
        while not self._serves():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert monotonic() < end, "the engine did not come up"
            sleep(0.02)

    def _serves(self) -> bool:
        with socket.socket(socket.AF_UNIX) as caller:
            if caller.connect_ex(str(self.socket)):
                return False
            caller.settimeout(PATIENCE_S)
            caller.sendall(b"GET /health HTTP/1.1\r\nHost: engine\r\n\r\n")
            return b" 200 " in caller.recv(64)

    def ended(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of an engine that is about to end."""
        out, error = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, error

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="session")
def start_engine(engine_model: Path, short_folder: Path) -> Iterator[Callable[..., EngineProcess]]:
    """Starts engine processes; those that still run at the end are killed."""
    started: list[EngineProcess] = []

    def start(
        *arguments: str,
        model: Path | str | None = None,
        path: Path | None = None,
        program: tuple[str, ...] = ("-m", "engine"),
        stderr: int = subprocess.PIPE,
        **settings: str,
    ) -> EngineProcess:
        path = path or short_folder / f"{next(_names)}.sock"
        command = (*program, *arguments)
        started.append(EngineProcess(path, model or engine_model, command, stderr, settings))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def engine(start_engine: Callable[..., EngineProcess]) -> EngineProcess:
    """One engine shared by most tests, each with its own session."""
    process = start_engine()
    process.wait_until_ready()
    return process


class EventStream:
    """An open events stream."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.events: list[Event] = []

    async def until(self, condition: Callable[["EventStream"], object]) -> None:
        """Read until a condition holds, within the deadline."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self):
                self.events.append(_events.decode(await anext(self._lines)))

    async def drained(self) -> None:
        """Read to the stream's end, within the deadline."""
        async with asyncio.timeout(PATIENCE_S):
            self.events += [_events.decode(line) async for line in self._lines]

    @property
    def steps(self) -> list[Step]:
        return [event for event in self.events if isinstance(event, Step)]

    @property
    def heartbeats(self) -> list[Heartbeat]:
        return [event for event in self.events if isinstance(event, Heartbeat)]

    @property
    def hello(self) -> Hello:
        assert isinstance(self.events[0], Hello)
        return self.events[0]

    def tokens(self, name: str) -> list[int]:
        return [token for step in self.steps for token in step.tokens.get(name, [])]

    @property
    def finishes(self) -> dict[str, Finish]:
        return {finish.id: finish for step in self.steps for finish in step.finished}


class GatewaySession:
    """One gateway session with an engine."""

    def __init__(self, engine: EngineProcess, epoch: str, http: httpx.AsyncClient) -> None:
        self.engine = engine
        self.http = http
        self.epoch = epoch
        self.session = f"session-{next(_names)}"

    @asynccontextmanager
    async def events(self, after: int = 0) -> AsyncIterator[EventStream]:
        query = {"session": self.session, "after": after}
        async with self.http.stream("GET", "/events", params=query) as response:
            assert response.status_code == 200, await response.aread()
            stream = EventStream(response.aiter_lines())
            await stream.until(lambda stream: stream.events)
            yield stream

    async def operate(self, *operations: Any) -> Submitted:
        submission = Submission(self.session, self.epoch, list(operations))
        answer = await self.http.post("/submit", content=msgspec.json.encode(submission))
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=Submitted)

    async def submit(self, *sequences: Sequence) -> Submitted:
        return await self.operate(SubmitBatch("batch", list(sequences)))

    async def stats(self) -> dict[str, Any]:
        return (await self.http.get("/stats")).json()


@pytest.fixture
def connect() -> Callable[[EngineProcess], Any]:
    """Opens a new gateway session with an engine."""

    @asynccontextmanager
    async def open_session(engine: EngineProcess) -> AsyncIterator[GatewaySession]:
        transport = httpx.AsyncHTTPTransport(uds=str(engine.socket))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://engine", timeout=PATIENCE_S
        ) as http:
            yield GatewaySession(engine, (await http.get("/info")).json()["epoch"], http)

    return open_session


@pytest.fixture
async def gateway(
    engine: EngineProcess, connect: Callable[..., Any]
) -> AsyncIterator[GatewaySession]:
    """A new session with the shared engine."""
    async with connect(engine) as session:
        yield session


@pytest.fixture
def a_sequence() -> Callable[..., Sequence]:
    """A sequence with defaults and a unique id."""

    def build(**fields: Any) -> Sequence:
        defaults = {"id": f"s{next(_names)}", "prompt": [1, 2, 3], "max_tokens": 8, "reserve": 8}
        return Sequence(**{**defaults, **fields})

    return build
