"""A client of a small server, with a listener that resubmits as the gateway does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Many
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from engine.protocol import EngineInfo, Finish, Refused, Sequence, Starting, Step
from gateway.engines.upstream import client, health, probe
from gateway.engines.upstream.client import UpstreamEngine
from gateway.engines.upstream.local_model import LocalModel
from gateway.engines.upstream.server import UpstreamServer
from tests.conftest import PATIENCE_S
from tests.openai_server import CONTEXT, VOCABULARY, OpenAiServer, openai_server

STOP_ID = 2


class Numbers:
    """A codec of texts such as `5 6 7 `."""

    def prompt_text(self, ids: Many[int]) -> str:
        return "".join(f"{token} " for token in ids)

    text = prompt_text

    def spelled(self, ids: Many[int]) -> bytes:
        return self.prompt_text(ids).encode()

    def encode(self, text: str) -> list[int]:
        return [int(word) if word.isdigit() else 9 for word in text.split()]


MODEL = LocalModel("model", VOCABULARY, CONTEXT, [STOP_ID], Numbers())


class Listener:
    """Collects what a client reports, by the name of a sequence before its dot."""

    def __init__(self) -> None:
        self.infos: list[EngineInfo] = []
        self.steps: list[Step] = []
        self.losses = 0
        self.phases: list[str] = []
        self.tokens: dict[str, list[int]] = {}
        self.finished: dict[str, Finish] = {}
        self.refused: dict[str, str] = {}
        self.submitted: dict[str, Sequence] = {}
        self.client: UpstreamEngine
        self._changed = asyncio.Event()

    def engine_ready(self, info: EngineInfo) -> None:
        self.infos.append(info)
        self.submit(*(self._resumed(name) for name in self.unfinished))
        self._changed.set()

    def engine_lost(self) -> None:
        self.losses += 1
        self._changed.set()

    def engine_starting(self, starting: Starting) -> None:
        self.phases.append(starting.phase)
        self._changed.set()

    def engine_refused(self, refused: Many[Refused]) -> None:
        self.refused.update({item.id: item.reason for item in refused})
        self._changed.set()

    def engine_stepped(self, step: Step) -> None:
        self.steps.append(step)
        for name, tokens in step.tokens.items():
            self.tokens.setdefault(name.split(".")[0], []).extend(tokens)
        self.finished.update({finish.id.split(".")[0]: finish for finish in step.finished})
        self._changed.set()

    @property
    def unfinished(self) -> list[str]:
        return [n for n in self.submitted if n not in self.finished and n not in self.refused]

    def submit(self, *sequences: Sequence) -> None:
        self.submitted.update({sequence.id.split(".")[0]: sequence for sequence in sequences})
        self.client.submit("batch", sequences)

    def _resumed(self, name: str) -> Sequence:
        generated = list(self.tokens.get(name, []))
        return structs.replace(
            self.submitted[name], id=f"{name}.{len(self.infos)}", generated=generated
        )

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def end_of(self, name: str) -> Finish:
        await self.until(lambda: name in self.finished)
        return self.finished[name]


def a_sequence(name: str = "a", *, last: int = 10, tokens: int = 6, **fields: Any) -> Sequence:
    """A sequence that the server answers with last + 1, last + 2 …."""
    given = {"prompt": [5, last], "max_tokens": tokens, "reserve": tokens, "stop_ids": [STOP_ID]}
    return Sequence(id=name, **{**given, **fields})


@asynccontextmanager
async def connected(
    server: OpenAiServer, *, key: str | None = None, **options: Any
) -> AsyncIterator[Listener]:
    """A listener of a client that has connected."""
    async with started(server, key=key, **options) as listener:
        await listener.until(lambda: listener.infos)
        yield listener


@asynccontextmanager
async def started(
    server: OpenAiServer, *, key: str | None = None, **options: Any
) -> AsyncIterator[Listener]:
    """A listener of a client that connects."""
    listener = Listener()
    http = UpstreamServer(server.url, key, connections=100)
    listener.client = UpstreamEngine(http, MODEL, **options)
    await listener.client.start(listener)
    yield listener
    await listener.client.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the intervals, so that whole recoveries are shown."""
    monkeypatch.setattr(client, "RETRY_S", 0.02)
    monkeypatch.setattr(client, "WATCH_S", 0.02)
    monkeypatch.setattr(health, "POLL_S", 0.05)
    monkeypatch.setattr(health, "AGAIN_S", 0.02)
    monkeypatch.setattr(probe, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr("gateway.engines.upstream.sequence_stream.BACKOFF_S", (0.0,) * 4)


@pytest.fixture
async def server() -> AsyncIterator[OpenAiServer]:
    async with openai_server() as running:
        yield running
