"""What S2 replays: requests, arrivals and a pool make a regime; a load and a seed make a cell."""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from benchmarks.sides import FCFS, OUR_ORACLE, OURS, Side, replayed, side
from gateway.replay.arrivals import ArrivalsName
from gateway.replay.costs import EngineModel
from gateway.replay.load import saturated_rate_s
from gateway.replay.measures import Measures, measure
from gateway.replay.scenario import Scenario
from gateway.replay.workload import Floats, Workload
from gateway.scheduling.policies import Options

REQUESTS: Final = 10_000
SEEDS: Final = 3
LOADS: Final = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
OVERLOAD: Final = 1.1
POOLS: Final = {"tight": 8, "roomy": 64}  # mean requests that fit
TRACE: Final = "trace"
TEXTS: Final = "texts"
ARRIVALS: Final[dict[str, tuple[ArrivalsName, ...]]] = {
    TEXTS: ("poisson", "bursts"),
    TRACE: ("trace",),
}
MAIN: Final = (TEXTS, "poisson")
SHUFFLED: Final = "shuffled"
MEAN_FIRST: Final = "mean-first"
BOUNDED: Final = "bounded"
SETTINGS: Final = {
    BOUNDED: Options(waiting_weight=20.0),
    MEAN_FIRST: Options(max_delay_s=None, waiting_weight=0.25),
}
ALWAYS: Final = (FCFS, OURS, OUR_ORACLE)
PLAIN: Final = ("sjf", "hrrn")
HELD: Final = "fcfs, held"  # without any prediction: whoever fits now starts
ORACLES: Final = ("oracle-sjf", "oracle-hrrn")
COMPARED: Final = (*ALWAYS, HELD, *PLAIN, *ORACLES)
SOME_LOADS: Final = (0.7, 0.9, 1.1)  # where not all are told


class Regime(Struct, frozen=True):
    """Which requests, how they arrive, and how much memory there is for them."""

    source: str
    arrivals: ArrivalsName
    pool: str

    def __str__(self) -> str:
        return f"{self.source}/{self.arrivals}/{self.pool}"


class Task(Struct, frozen=True, kw_only=True):
    """A cell to be replayed; `rate_s` is in requests a second."""

    regime: Regime
    load: float
    seed: int
    rate_s: float
    scenario: Scenario
    engine: EngineModel


class Cell(Struct, frozen=True, kw_only=True):
    """What every side came to on the same requests."""

    regime: Regime
    load: float
    seed: int
    rate_s: float
    measures: dict[str, Measures]


def sides(regime: Regime, load: float) -> Iterator[Side]:
    """Who is compared at a load; FCFS comes first, the others' delays are told from its.

    Everybody everywhere would take hours: the main regime has the most.
    """
    main = (regime.source, regime.arrivals) == MAIN
    busy = load in SOME_LOADS[1:]
    yield from map(side, ALWAYS)
    if main or busy:
        yield Side(name=HELD, policy=FCFS, options=Options(admission="held"))
        yield from map(side, PLAIN)
    if main and busy:
        yield from map(side, ORACLES)
    if main or load in SOME_LOADS:
        yield Side(name=SHUFFLED, policy=OURS, told="shuffled")
    if load == OVERLOAD:
        for name, options in SETTINGS.items():
            yield Side(name=name, policy=OURS, options=options)


def loads_of(regime: Regime) -> tuple[float, ...]:
    """At which loads it is replayed."""
    return LOADS if (regime.source, regime.arrivals) == MAIN else SOME_LOADS


def regimes(sources: Sequence[str], only: str) -> list[Regime]:
    """Those of the sources whose name begins like one of `only`, comma-separated; "" for all."""
    known = [
        Regime(source, arrivals, pool)
        for source in sources
        for arrivals in ARRIVALS[source]
        for pool in POOLS
    ]
    wanted = tuple(only.split(","))
    return [regime for regime in known if str(regime).startswith(wanted)]


def scenario(workload: Workload, regime: Regime, requests: int, seed: int, seeds: int) -> Scenario:
    """The requests of a seed: a stretch of a trace with noisy predictions, else drawn at random."""
    if regime.arrivals == TRACE:
        part = stretch(workload, requests, seed, seeds)
        return Scenario(source=part, arrivals=TRACE, predictor="noise")
    return Scenario(source=workload, arrivals=regime.arrivals, drawn=requests, predictor="recorded")


def stretch(trace: Workload, requests: int, seed: int, seeds: int) -> Workload:
    """So many requests in a row, or all there are; stretches of seeds lie evenly on the trace."""
    spare = max(len(trace) - requests, 0)
    first = spare * seed // max(seeds - 1, 1)
    return trace.take(slice(first, first + requests))


def saturated(task: Task) -> float:
    """Requests a second that FCFS gets through of this cell's requests, saturated."""
    return saturated_rate_s(_workload(task), task.engine, Options())


def cell(task: Task) -> Cell:
    """Replay a cell."""
    workload = _workload(task)
    first_come_s: Floats | None = None
    measures: dict[str, Measures] = {}
    for each in sides(task.regime, task.load):
        outcomes = replayed(each, workload, task.engine, task.seed)
        if each.name == FCFS:
            first_come_s = outcomes.dispatched_s
        measures[each.name] = measure(workload, outcomes, task.engine.shape.pages, first_come_s)
    return Cell(
        regime=task.regime,
        load=task.load,
        seed=task.seed,
        rate_s=workload.rate_s,
        measures=measures,
    )


def _workload(task: Task) -> Workload:
    return task.scenario.workload(task.rate_s, task.seed)
