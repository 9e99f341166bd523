"""The cells of U2: a source of requests, a number of engines, and whether the last is slow."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.harness.contenders import OUR_ORACLE, OURS, pool_of, trace_part
from gateway.evaluation.arrivals import SEED
from gateway.evaluation.corpus import read_corpus
from gateway.evaluation.lengths import count_words
from gateway.replay import comparison
from gateway.replay.comparison import Case, Contender
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.metrics import Measures
from gateway.replay.routers import ONE_QUEUE, ROUTER_NAMES, RouterName
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.workload import Workload
from gateway.scheduling.requests import SharedPrefix

ENGINES: Final = (2, 4, 16, 64)
LOAD: Final = 0.9
POOL: Final = 16  # mean requests that an engine's memory holds
SLOW: Final = 0.5  # of the speed of the others
TRACE: Final = "trace"
TEXTS: Final = "texts"
REQUESTS: Final = {2: 2_000, 4: 2_000, 16: 3_200, 64: 6_400}
OTHERS: Final = tuple(name for name in ROUTER_NAMES if name != ONE_QUEUE)
POLICIES: Final = ("fcfs", OURS)  # in the engines behind the other routers
PAGE: Final = 16  # tokens


class Fleet(Struct, frozen=True):
    """Requests of a source, on this number of engines; `slow`: the last has half the speed."""

    source: str
    engines: int
    slow: bool

    @property
    def speeds(self) -> tuple[float, ...]:
        """The speed of each engine."""
        return (*(1.0,) * (self.engines - 1), SLOW if self.slow else 1.0)

    def __str__(self) -> str:
        return f"{self.source}/{self.engines}/{'one slow' if self.slow else 'equal'}"


Cell: TypeAlias = comparison.Cell[Fleet, Measures]


def contenders(source: str) -> Iterator[Contender]:
    """One queue, with predicted and with true lengths; every other router, with both orders.

    The trace has no prefixes: an affinity to them would be to the fewest requests.
    """
    for name in (OURS, OUR_ORACLE):
        yield replace(Contender.of(name), router=ONE_QUEUE)
    for router, policy in product(others(source), POLICIES):
        yield replace(Contender.of(policy), name=f"{router}, {policy}", router=router)


def others(source: str) -> list[RouterName]:
    """The routers that ours is compared with."""
    return [name for name in OTHERS if source == TEXTS or name != "prefix-affinity"]


def fleets(only: str) -> list[Fleet]:
    """The fleets whose name begins with `only`; "" for all."""
    known = [
        Fleet(source, engines, slow)
        for source, engines, slow in product((TRACE, TEXTS), ENGINES, (False, True))
    ]
    return [each for each in known if str(each).startswith(only)]


def engine_for(workload: Workload, engine: EngineModel) -> EngineModel:
    """The engine with memory for `POOL` mean requests."""
    return pool_of(POOL, engine, workload)


def scenario(source: str, workload: Workload, requests: int, seed: int, seeds: int) -> Scenario:
    """A seed's requests: part of the trace with noisy predictions, or texts drawn at random."""
    if source == TRACE:
        part = trace_part(workload, requests, seed, seeds)
        return Scenario(source=part, arrivals=TRACE, predictor="noise")
    return Scenario(source=workload, arrivals="poisson", sample_size=requests, predictor="recorded")


def case(
    fleet: Fleet, whole: Scenario, engine: EngineModel, rate_s: float, seed: int
) -> Case[Fleet]:
    """A fleet at `LOAD`; `rate_s` is the saturated rate of one engine of full speed."""
    return Case(
        key=fleet,
        seed=seed,
        requests=partial(whole.workload, LOAD * rate_s * sum(fleet.speeds), seed),
        engine=engine,
        contenders=tuple(contenders(fleet.source)),
        speeds=fleet.speeds,
    )


def with_instructions(texts: Workload, data: Path) -> Workload:
    """The texts as of one app, with their instructions as prefixes, in whole pages.

    `texts` are those of `text_requests` of the same folder. ValueError if they are in another order
    than the folder's lines.
    """
    unordered = read_corpus(data, data).test
    lines = Random(SEED).sample(unordered, len(unordered))
    words = np.array(count_words([line.instruction for line in lines]))
    inputs = np.array(count_words([line.input for line in lines]))
    if not np.array_equal(np.maximum(words + inputs, 1), texts.prompt_tokens):
        raise ValueError("the texts are in another order than their lines")
    instructions = sorted({line.instruction for line in lines})
    number = {instruction: index for index, instruction in enumerate(instructions)}
    sizes = dict(zip((line.instruction for line in lines), words.tolist(), strict=True))
    prefixes = [
        SharedPrefix(str(index), sizes[instruction] // PAGE * PAGE)
        for index, instruction in enumerate(instructions)
    ]
    chosen = np.array([number[line.instruction] for line in lines])
    return Workload.of(
        texts.arrived_s,
        texts.prompt_tokens,
        texts.generation_tokens,
        quantiles=texts.quantiles,
        max_tokens=texts.max_tokens,
        prefix=chosen,
        prefixes=prefixes,
    )
