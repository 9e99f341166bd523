"""Requests, and a scheduler with engines that only record their commands."""

import asyncio
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from engine.protocol import (
    EngineInfo,
    Finish,
    HostWork,
    KvState,
    Mode,
    Pin,
    Sequence,
    Step,
    StepWork,
    TokenLogprobs,
)
from gateway.engines.interface import EngineClient, EngineListener
from gateway.generation.holds.holds import Holds
from gateway.generation.queue.load import QueueBounds
from gateway.generation.request import GenerationRequest, Message
from gateway.generation.request_state import RequestState
from gateway.generation.scheduler import Scheduler
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.history.disk.journal import Begun
from gateway.history.record import Record
from gateway.limits.request_hold import RequestHold
from gateway.prediction.messages import Prediction
from gateway.prediction.serving.drift import DriftMonitor
from gateway.prediction.serving.open_prediction import OpenPrediction
from gateway.scheduling.policy import Options, Policy, PolicyName, build_policy
from gateway.scheduling.requests import Quantiles
from gateway.tenancy.caller import Caller

DEMO = Path(__file__).parents[3] / "engine" / "demo" / "lmaas-demo"
KV = KvState(pages=64, free=64, page_tokens=16)


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer(DEMO)


@pytest.fixture
def a_request() -> Callable[..., GenerationRequest]:
    def build(
        *turns: tuple[str, str], registered: str | None = None, tenant: int = 1, **fields: object
    ) -> GenerationRequest:
        caller = Caller(
            tenant_id=UUID(int=tenant),
            tenant="tenant",
            app_id=UUID(int=2),
            app="app",
            api_key_id=UUID(int=3),
            instruction=registered,
        )
        messages = tuple(Message(*turn) for turn in turns or [("user", "brave king")])
        return GenerationRequest(caller=caller, messages=messages, **fields)  # type: ignore[arg-type]

    return build


OUTAGE_S = 60.0


class RecordingEngine:
    """Records commands and runs nothing; the test sends the engine's events."""

    busy_s = 0.0

    def __init__(self) -> None:
        self.submitted: list[list[Sequence]] = []
        self.cancelled: list[str] = []
        self.pins: list[Pin] = []
        self.commands: list[str] = []
        self.preempt_first: dict[str, int] = {}
        self.preempted: list[str] = []

    async def start(self, _listener: EngineListener) -> None:
        raise AssertionError("the test sends the events")

    async def close(self) -> None:
        pass

    def submit(self, batch: str, sequences: Many[Sequence], pins: Many[Pin] = ()) -> None:
        assert batch
        self.pins.extend(pins)
        self.submitted.append(list(sequences))

    def cancel(self, ids: Many[str]) -> None:
        self.cancelled.extend(ids)

    def revise(self, remaining: Mapping[str, int], preempt_first: Mapping[str, int]) -> None:
        if remaining:
            self.commands.append(f"revise {remaining}")
        self.preempt_first |= preempt_first

    def preempt(self, ids: Many[str]) -> None:
        self.preempted.extend(ids)

    def pause(self) -> None:
        self.commands.append("pause")

    def drain(self) -> None:
        self.commands.append("drain")

    def resume(self) -> None:
        self.commands.append("resume")

    def set_mode(self, mode: Mode) -> None:
        self.commands.append(mode)

    def pin(self, name: str, tokens: Many[int], salt: str) -> None:
        self.commands.append(f"pin {name} {tokens} {salt}")

    def unpin(self, names: Many[str]) -> None:
        self.commands.append(f"unpin {names}")


def a_policy(name: PolicyName) -> Policy:
    return build_policy(name, Options(fixed_batch=2))


class Trusting(DriftMonitor):
    """A monitor that says what the test wants."""

    trusted = True

    def trustworthy(self, tau_floor: float) -> bool:
        del tau_floor
        return self.trusted


class RecordingHistory:
    """Keeps the records of ended requests; `trusted` sets whether predictions are trusted."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.noted: list[Record] = []
        self.full = False
        self.observed: list[OpenPrediction | None] = []
        self.begun: list[OpenPrediction] = []
        self.active: UUID | None = None
        self.drift = Trusting()

    @property
    def trusted(self) -> bool:
        return self.drift.trusted

    @trusted.setter
    def trusted(self, trusted: bool) -> None:
        self.drift.trusted = trusted

    def note_starts(self, begun: Many[Begun]) -> None:
        self.noted += [record for record, _ in begun]

    def record(self, record: Record, released: Callable[[], None]) -> None:
        self.records.append(record)
        released()

    def observe(self, record: Record, opened: OpenPrediction | None = None) -> None:
        assert record is self.records[-1]
        self.observed.append(opened)

    def started(self, opened: OpenPrediction) -> None:
        self.begun.append(opened)


def a_prediction(length: float, quantiles: Quantiles | None = None) -> Prediction:
    return Prediction(
        quantiles=quantiles or (length,) * 6,
        mean=length,
        source="model",
        predictor=None,
        feature_version=1,
        features=b"",
        instruction_hash=b"",
    )


class SchedulerScene:
    """A scheduler with recording engines and history, and a factory of requests.

    `engine` is the first of `engines`, and the one that most tests have.
    """

    def __init__(
        self,
        a_request: Callable[..., GenerationRequest],
        tokenizer: ChatTokenizer,
        outage_s: float = OUTAGE_S,
        bounds: QueueBounds | None = None,
        client: EngineClient | None = None,
        holds: Holds | None = None,
        engines: int = 1,
    ) -> None:
        self.now_s: float | None = None  # the clock's time, if a test sets it
        self.engines = [RecordingEngine() for _ in range(engines)]
        self.engine = self.engines[0]
        self.outcomes = RecordingHistory()
        self.scheduler = Scheduler(
            "model",
            [client] if client is not None else self.engines,
            self.outcomes,
            self.outcomes,
            policy="lmaas",
            options=Options(fixed_batch=2),
            tau_floor=0.2,
            outage_s=outage_s,
            bounds=bounds,
            holds=holds,
            clock=lambda: time.monotonic() if self.now_s is None else self.now_s,
        )
        self.loop = self.scheduler._loop
        self.table = self.scheduler.table
        self._new_request = a_request
        self._tokenizer = tokenizer
        self._numbers = count(1)
        self._steps = count(1)

    def request(
        self,
        length: float = 10.0,
        max_tokens: int = 100,
        *,
        wanted: int | None = None,
        choice: int = 0,
        grew: asyncio.Event | None = None,
        arrived_s: float | None = None,
        prompt: list[int] | None = None,
        quantiles: Quantiles | None = None,
        hold: RequestHold | None = None,
        **fields: Any,
    ) -> RequestState:
        return RequestState(
            request_id=UUID(int=next(self._numbers)),
            request=self._new_request(max_tokens=wanted, **fields),
            choice=choice,
            grew=grew,
            prompt=prompt or [1, 2, 3],
            user_input_tokens=2,
            max_tokens=max_tokens,
            prediction=a_prediction(length, quantiles),
            hold=hold,
            decoder=self._tokenizer.decoder(),
            speller=self._tokenizer.speller,
            arrived_at=datetime.now(UTC),
            arrived_s=time.monotonic() if arrived_s is None else arrived_s,
        )

    @staticmethod
    def kv(pages: int, page_tokens: int) -> KvState:
        return KvState(pages=pages, free=pages, page_tokens=page_tokens)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def connect(
        self, kv: KvState = KV, max_running: int = 0, *, engine: int = 0, **fields: Any
    ) -> None:
        info = EngineInfo("epoch", "model", 512, 100, [4], kv, "cpu", "float32", max_running)
        self.scheduler.events[engine].engine_ready(structs.replace(info, **fields))

    async def enqueue(self, *requests: RequestState) -> None:
        for request in requests:
            self.scheduler.enqueue(request)
        await asyncio.sleep(0)  # one turn of the loop: the decision

    def step(
        self,
        tokens: dict[str, list[int]] | None = None,
        finished: Many[Finish] = (),
        *,
        kv: KvState = KV,
        logprobs: dict[str, list[TokenLogprobs]] | None = None,
        preempted: Many[str] = (),
        returned: Many[str] = (),
        took_s: float = 0.0,
        computed: int = 0,
        steps: int = 1,
        work: StepWork | None = None,
        host_work: HostWork | None = None,
        swap_token_s: float = 0.0,
        unpinned: Many[str] = (),
        engine: int = 0,
    ) -> None:
        self.scheduler.events[engine].engine_stepped(
            Step(
                next(self._steps),
                kv,
                tokens or {},
                logprobs or {},
                list(finished),
                list(preempted),
                list(returned),
                list(unpinned),
                took_s=took_s,
                computed=computed,
                steps=steps,
                work=work,
                host_work=host_work,
                swap_token_s=swap_token_s,
            )
        )

    @property
    def waiting(self) -> int:
        return len(self.table.waiting)

    @property
    def running(self) -> int:
        return len(self.table.running)

    @property
    def ended(self) -> list[UUID]:
        return [record.id for record in self.outcomes.records]

    @property
    def names(self) -> list[str]:
        return [sequence.id for batch in self.engine.submitted for sequence in batch]


@pytest.fixture
def scene(a_request: Callable[..., GenerationRequest], tokenizer: ChatTokenizer) -> SchedulerScene:
    return SchedulerScene(a_request, tokenizer)
