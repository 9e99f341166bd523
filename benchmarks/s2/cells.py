"""The cells of S2: a regime (requests, arrivals, pool) at a load with a seed."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.harness.contenders import FCFS, OUR_ORACLE, OURS, POOLS, trace_part
from gateway.replay import comparison
from gateway.replay.comparison import Case, Contender
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.metrics import Measures
from gateway.replay.workload.arrivals import ArrivalsName
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options

REQUESTS: Final = 10_000
LOADS: Final = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
OVERLOAD: Final = 1.1
TRACE: Final = "trace"
TEXTS: Final = "texts"
ARRIVALS: Final[dict[str, tuple[ArrivalsName, ...]]] = {
    TEXTS: ("poisson", "bursts"),
    TRACE: ("trace",),
}
MAIN: Final = (TEXTS, "poisson")
SHUFFLED: Final = "shuffled"
MEAN_FIRST: Final = "mean-first"
ORACLE_MEAN_FIRST: Final = "oracle, mean-first"
BOUNDED: Final = "bounded"
SETTINGS: Final = {
    BOUNDED: Options(waiting_weight=20.0),
    MEAN_FIRST: Options(max_delay_s=None, waiting_weight=0.25),
}
EVERYWHERE: Final = (FCFS, OURS, OUR_ORACLE)
BASELINES: Final = ("sjf", "hrrn")
HELD: Final = "fcfs, held"  # without predictions: requests start if they fit now
ORACLES: Final = ("oracle-sjf", "oracle-hrrn")
COMPARED: Final = (*EVERYWHERE, HELD, *BASELINES, *ORACLES)
REDUCED_LOADS: Final = (0.7, 0.9, 1.1)  # outside the main regime


class Regime(Struct, frozen=True):
    """A source of requests, their arrivals, and the size of the KV pool."""

    source: str
    arrivals: ArrivalsName
    pool: str

    def __str__(self) -> str:
        return f"{self.source}/{self.arrivals}/{self.pool}"


RegimeAtLoad: TypeAlias = tuple[Regime, float]
Cell: TypeAlias = comparison.Cell[RegimeAtLoad, Measures]


def contenders(regime: Regime, load: float) -> Iterator[Contender]:
    """The contenders at a load: all of them only in the main regime, to save hours."""
    main = (regime.source, regime.arrivals) == MAIN
    busy = load in REDUCED_LOADS[1:]
    yield from map(Contender.of, EVERYWHERE)
    if main or busy:
        yield Contender(name=HELD, policy=FCFS, options=Options(admission="held"))
        yield from map(Contender.of, BASELINES)
    if main and busy:
        yield from map(Contender.of, ORACLES)
    if main or load in REDUCED_LOADS:
        yield Contender(name=SHUFFLED, policy=OURS, predictor="shuffled")
    if load == OVERLOAD:
        for name, options in SETTINGS.items():
            yield Contender(name=name, policy=OURS, options=options)
        oracle = Contender.of(OUR_ORACLE, SETTINGS[MEAN_FIRST])
        yield replace(oracle, name=ORACLE_MEAN_FIRST)


def loads_of(regime: Regime) -> tuple[float, ...]:
    """The loads of a regime."""
    return LOADS if (regime.source, regime.arrivals) == MAIN else REDUCED_LOADS


def regimes(sources: Sequence[str], only: str) -> list[Regime]:
    """The regimes whose name begins with one of `only`, comma-separated; "" for all."""
    known = [
        Regime(source, arrivals, pool)
        for source in sources
        for arrivals in ARRIVALS[source]
        for pool in POOLS
    ]
    wanted = tuple(only.split(","))
    return [regime for regime in known if str(regime).startswith(wanted)]


def scenario(workload: Workload, regime: Regime, requests: int, seed: int, seeds: int) -> Scenario:
    """The requests of a seed: part of a trace with noisy predictions, or drawn at random."""
    if regime.arrivals == TRACE:
        part = trace_part(workload, requests, seed, seeds)
        return Scenario(source=part, arrivals=TRACE, predictor="noise")
    return Scenario(
        source=workload, arrivals=regime.arrivals, sample_size=requests, predictor="recorded"
    )


def cases(
    regime: Regime,
    scenarios: Sequence[Scenario],
    rates_s: Sequence[float],
    engine: EngineModel,
    loads: Sequence[float],
) -> list[Case[RegimeAtLoad]]:
    """A case for each load and seed; `scenarios` and `rates_s` have one item for each seed."""
    seeds = list(enumerate(zip(scenarios, rates_s, strict=True)))
    return [
        Case(
            key=(regime, load),
            seed=seed,
            requests=partial(each.workload, load * rate_s, seed),
            engine=engine,
            contenders=tuple(contenders(regime, load)),
        )
        for load, (seed, (each, rate_s)) in product(loads, seeds)
    ]
