"""The cells of B1 in replay: a job at a size of the KV memory, in two orders.

In groups: planned by `gateway.jobs`, fed and pinned like by the gateway, in its lane for jobs. In
order of arrival: the engine alone gets all lines at once, and keeps prefixes by last use.
"""

from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.b1.job import ANSWER, OWN, PAGE_TOKENS, SHARED, least, logical
from gateway.jobs.planning.plan import JobPlan, plan_lines
from gateway.jobs.prefix_groups import ALONE
from gateway.jobs.prompts import Ints, JobPrompts
from gateway.replay.cost.model import EngineModel
from gateway.replay.cost.profiles import profile
from gateway.replay.engine.lanes import LanesEngine
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.replay.simulator import replay
from gateway.replay.workload.workload import NO_PREFIX, Workload
from gateway.scheduling.policy import Options, build_policy
from gateway.scheduling.requests import SharedPrefix

STEP_TOKENS: Final = 2_048
PROFILE: Final = "a100-80gb/llama-3-8b"
SEED: Final = 42
VOCABULARY: Final = 32_000


class OrderRun(Struct, frozen=True):
    """A run of a job in one order."""

    computed_tokens: int
    steps: int
    makespan_s: float
    preemptions: int
    pins: int = 0
    pins_lost: int = 0

    def prefilled(self, lines: int) -> int:
        """Prompt tokens computed: all computed tokens except the generated ones fed back."""
        return self.computed_tokens - lines * (ANSWER - 1)


class ReplayCell(Struct, frozen=True):
    """A job at a size of the KV memory, run in both orders."""

    lines: int
    degree: int
    kv_tokens: int
    arrival: OrderRun
    groups: OrderRun

    @property
    def logical(self) -> int:
        """Prompt tokens of all lines."""
        return logical(self.lines)

    @property
    def optimum(self) -> float:
        """The share of them that is saved if each prefix is computed once."""
        return optimum(self.degree)

    def saved(self, run: OrderRun) -> float:
        """The share of the prompt tokens that a run did not compute."""
        return 1 - run.prefilled(self.lines) / self.logical


def optimum(degree: int) -> float:
    """The share of prompt tokens saved if a prefix is computed once for each `degree` lines."""
    return 1 - least(degree, degree) / logical(degree)


def replay_cell(lines: int, degree: int, kv_tokens: int) -> ReplayCell:
    """Any cell: lines in groups of `degree`, shuffled; the engine gets a pool of `kv_tokens`."""
    return replay_order(arrival_order(lines, degree), kv_tokens, step_tokens=STEP_TOKENS)


def replay_order(group_of: Ints, kv_tokens: int, *, step_tokens: int) -> ReplayCell:
    """The cell of a job whose lines arrive in this order: (lines,), the group of each."""
    model = engine_with(kv_tokens, step_tokens)
    return ReplayCell(
        lines=len(group_of),
        degree=int(np.bincount(group_of).max()),
        kv_tokens=kv_tokens,
        arrival=run_in_order_of_arrival(group_of, model),
        groups=run_in_groups(group_of, model),
    )


def engine_with(kv_tokens: int, step_tokens: int) -> EngineModel:
    """The engine of the figure, from published figures, with this pool and these steps."""
    engine = profile(PROFILE)
    shape = msgspec.structs.replace(
        engine.shape,
        pages=kv_tokens // PAGE_TOKENS,
        page_tokens=PAGE_TOKENS,
        step_tokens=step_tokens,
    )
    return msgspec.structs.replace(engine, shape=shape)


@lru_cache(maxsize=4)
def arrival_order(lines: int, degree: int) -> Ints:
    """The group of each line: groups of `degree` lines, shuffled."""
    return np.random.default_rng(SEED).permutation(np.arange(lines) // degree)


def run_in_order_of_arrival(group_of: Ints, engine: EngineModel) -> OrderRun:
    """The engine gets all lines at once, without pins."""
    workload = _workload(
        group_of, [SharedPrefix(str(g), SHARED) for g in range(group_of.max() + 1)]
    )
    simulated = LanesEngine(engine)
    simulated.submit(
        [
            SimulatedSequence(
                index, workload.request(index), ANSWER, ANSWER, workload.prefix_of(index)
            )
            for index in range(len(workload))
        ],
        0.0,
    )
    makespan_s = 0.0
    while simulated.next_s < float("inf"):
        if simulated.settle():
            makespan_s = simulated.next_s
        simulated.compose()
    statistics = simulated.statistics
    return OrderRun(
        computed_tokens=statistics.computed_tokens,
        steps=statistics.steps,
        makespan_s=makespan_s,
        preemptions=statistics.preemptions,
    )


def run_in_groups(group_of: Ints, engine: EngineModel) -> OrderRun:
    """The gateway's plan, order, lane and pins."""
    plan = plan_of(group_of, engine.shape.page_tokens)
    order = np.argsort(plan.ranks)
    prefixes = [
        SharedPrefix(name, int(tokens))
        for name, tokens in zip(plan.ids, plan.groups.prefix_tokens, strict=True)
    ]
    found = np.where(plan.groups.group_of == ALONE, NO_PREFIX, plan.groups.group_of)
    workload = _workload(found[order], prefixes, batch=True)
    results = replay(workload, build_policy("lmaas", Options()), engine)
    return OrderRun(
        computed_tokens=results.computed_tokens,
        steps=results.steps,
        makespan_s=float(results.finished_s.max()),
        preemptions=int(results.preemptions.sum()),
        pins=results.pins,
        pins_lost=results.pins_lost,
    )


def plan_of(group_of: Ints, page_tokens: int) -> JobPlan:
    """The plan of a job from the token ids of its lines."""
    random = np.random.default_rng(SEED)
    prefixes = random.integers(VOCABULARY, size=(group_of.max() + 1, SHARED), dtype=np.uint32)
    own = random.integers(VOCABULARY, size=(len(group_of), OWN), dtype=np.uint32)
    tokens = np.concatenate((prefixes[group_of], own), axis=1)
    starts = np.arange(len(group_of) + 1, dtype=np.int64) * (SHARED + OWN)
    return plan_lines(
        JobPrompts(tokens.reshape(-1), starts),
        np.full(len(group_of), float(ANSWER)),
        page_tokens=page_tokens,
        salt="B1",
    )


def _workload(prefix: Ints, prefixes: list[SharedPrefix], *, batch: bool = False) -> Workload:
    """Lines at time 0, in this order, with the lengths of their answers known."""
    count = len(prefix)
    return Workload.of(
        np.zeros(count),
        np.full(count, SHARED + OWN),
        np.full(count, ANSWER),
        max_tokens=ANSWER,
        quantiles=float(ANSWER),
        batch=batch,
        prefix=prefix,
        prefixes=prefixes,
    )
