"""A simple policy that records its calls, and builders of engines and workloads."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import HealthCheck, settings

from gateway.quantiles import P90
from gateway.replay.cost.model import EngineModel, EngineShape, LinearCost
from gateway.replay.workload.workload import Workload
from gateway.scheduling.admission.interface import NO_CAPACITY, Capacity
from gateway.scheduling.admission.prices import EngineCost
from gateway.scheduling.dispatch import Dispatch, dispatch_of
from gateway.scheduling.requests import QueuedRequest, RunningSequence, WaitingBatch

# benchmarks measure speed: a busy machine must not fail a property
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

Rule: TypeAlias = Literal["longest", "upper", "held", "all"]
MakePolicy: TypeAlias = Callable[..., "FirstComePolicy"]
MakeWorkload: TypeAlias = Callable[..., Workload]
MakeModel: TypeAlias = Callable[..., EngineModel]

REFRESH = 5  # steps after which `held` is stale


class SumAdmission:
    """Admits while a sum of pages fits: of prompts, with max_tokens, P90 or nothing for answers."""

    def __init__(self, rule: Rule) -> None:
        self.capacity = NO_CAPACITY
        self.rule = rule
        self.calls: list[tuple[Any, ...]] = []
        self._pages: dict[str, int] = {}
        self._steps = 0

    @property
    def empty(self) -> bool:
        return not self._pages

    @property
    def stale(self) -> bool:
        return self.rule == "held" and self._steps >= REFRESH

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        self.calls.append(("refresh", *sorted((s.id, s.generated) for s in running)))
        assert {s.id for s in running} == set(self._pages)
        self._pages = {s.id: self._of(s) for s in running}
        self._steps = 0

    def advance(self, steps: int) -> None:
        self.calls.append(("advance", steps))
        self._steps += steps

    def leave(self, request_id: str) -> None:
        del self._pages[request_id]

    def admit(self, requests: Sequence[QueuedRequest]) -> int:
        for index, request in enumerate(requests):
            pages = sum(self._pages.values()) + self._of(request.started())
            if pages > self.capacity.pages and self.rule != "all" and self._pages:
                return index
            self.force(request)
        return len(requests)

    def force(self, request: QueuedRequest) -> None:
        self._pages[request.id] = self._of(request.started())

    def reserve(self, request: QueuedRequest) -> int:
        return self._tokens(request.started()) if self.rule != "all" else int(request.p90)

    def resize(self, capacity: Capacity) -> None:
        self.capacity = capacity

    def trust(self, trusted: bool) -> None:
        self.calls.append(("trust", trusted))

    def price(self, cost: EngineCost | None) -> None:
        self.calls.append(("price", cost))

    def _of(self, sequence: RunningSequence) -> int:
        return self.capacity.pages_for(sequence.prompt_tokens + self._tokens(sequence))

    def _tokens(self, sequence: RunningSequence) -> int:
        if self.rule == "longest":
            return sequence.max_tokens
        if self.rule == "upper":
            return max(int(sequence.quantiles[P90]), sequence.generated + 1)
        return sequence.generated + 1


class FirstComePolicy:
    """FCFS with at most `batch_size` requests at a time; `calls` records calls and dispatches."""

    name = "first-come"
    lockstep = False

    def __init__(self, rule: Rule = "longest", *, batch_size: int = 3) -> None:
        self.admission = SumAdmission(rule)
        self.calls = self.admission.calls
        self.order: Literal["policy", "arrival"] = "arrival"
        self._batch_size = batch_size
        self.queue: deque[QueuedRequest] = deque()

    def __len__(self) -> int:
        return len(self.queue)

    def arrive(self, request: QueuedRequest) -> None:
        self.calls.append(("arrive", request.id))
        self.queue.append(request)

    def revise(self, requests: Sequence[QueuedRequest]) -> None:
        raise NotImplementedError

    def withdraw(self, request_id: str) -> bool:
        raise NotImplementedError

    def dispatch(self, now_s: float) -> Dispatch | None:
        oldest = list(self.queue)[: self._batch_size]
        requests = oldest[: self.admission.admit(oldest)]
        self.calls.append(("dispatch", now_s, *(request.id for request in requests)))
        for _ in requests:
            self.queue.popleft()
        return dispatch_of(requests, serving_s=1.0, now_s=now_s) if requests else None

    def ended(self, request: QueuedRequest, generated: int, now_s: float) -> None:
        self.calls.append(("ended", request.id, generated, now_s))
        self.admission.leave(request.id)

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        self.calls.append(("observe", size, prompt_tokens, generation_tokens, serving_s))

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        expired = [r for r in self.queue if r.start_by_s is not None and r.start_by_s <= now_s]
        for request in expired:
            self.queue.remove(request)
        return expired

    def trust(self, trusted: bool) -> None:
        self.calls.append(("trust", trusted))
        self.order = "policy" if trusted else "arrival"

    def resize(self, pages: int, page_tokens: int, max_running: int | None = None) -> None:
        self.admission.resize(Capacity(pages, page_tokens, max_running))

    def waiting(self, now_s: float) -> Iterator[WaitingBatch]:
        raise NotImplementedError

    @property
    def batches(self) -> int:
        return len(self.queue)

    def check(self) -> None:
        raise NotImplementedError


class LockstepFirstComePolicy(FirstComePolicy):
    """The same policy for a lock-step engine; once a batch was split, its batches are smaller."""

    lockstep = True

    def __init__(self, rule: Rule = "longest", *, batch_size: int = 3) -> None:
        super().__init__(rule, batch_size=batch_size)
        self.halved: list[tuple[QueuedRequest, ...]] = []

    def dispatch(self, now_s: float) -> Dispatch | None:
        return super().dispatch(now_s) if self.admission.empty else None

    def halve(self, requests: Sequence[QueuedRequest]) -> None:
        self.halved.append(tuple(requests))
        for request in requests:
            self.admission.leave(request.id)
        self.queue.extendleft(reversed(requests))
        self._batch_size = max(len(requests) // 2, 1)


POLICIES = {
    "continuous": FirstComePolicy,
    "lockstep": LockstepFirstComePolicy,
}

# durations are sums of powers of two: exact in floating point, in any order of addition
COST = LinearCost(step_s=2**-6, prompt_token_s=2**-12, sequence_s=2**-9, kv_token_s=2**-16)


@pytest.fixture(scope="session")
def a_policy() -> MakePolicy:
    def make(
        rule: Rule = "longest", *, mode: str = "continuous", batch_size: int = 3
    ) -> FirstComePolicy:
        return POLICIES[mode](rule, batch_size=batch_size)

    return make


@pytest.fixture(scope="session")
def a_model() -> MakeModel:
    def make(**shape: Any) -> EngineModel:
        given = {"pages": 64, "page_tokens": 4, "step_tokens": 32, "context_tokens": 10_000}
        return EngineModel(cost=COST, shape=EngineShape(**{**given, **shape}))

    return make


@pytest.fixture(scope="session")
def a_workload() -> MakeWorkload:
    def make(*requests: tuple[float, int, int], **columns: Any) -> Workload:
        """Requests (arrived_s, prompt_tokens, generation_tokens), predicted exactly."""
        arrived_s, prompts, lengths = zip(*requests, strict=True)
        predicted = [[float(length)] * 6 for length in lengths]
        given = {"max_tokens": 64, "quantiles": predicted, **columns}
        return Workload.of(arrived_s, prompts, lengths, **given)

    return make
