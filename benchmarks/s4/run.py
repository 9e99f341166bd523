"""S4: what others notice when one floods the gateway or is under-predicted; replayed.

Tenants, the apps of a tenant, or the users of an app.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import (
    FCFS,
    OURS,
    POOLS,
    fitting_smallest_pool,
    group_by_key,
    mean_ratio,
    pool_of,
    saturated_rate,
)
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.s4.service import bound, largest_gap
from benchmarks.s4.traffic import COMPARED_WITH, EQUAL, ONE_TENANT, PHASES, compared, phase
from gateway.quantiles import Floats
from gateway.replay import comparison
from gateway.replay.comparison import Case, Contender, ReplayRun, compare
from gateway.replay.cost.model import EngineModel
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.synthetic import synthetic_lengths
from gateway.replay.workload.workload import Workload

SEEDS: Final = 5
REQUESTS: Final = 600  # of each tenant but the one that floods
QUICK_REQUESTS: Final = 150
CONTENDERS: Final = (FCFS, OURS)
MOST_SLOWER: Final = 1.1
LEAST_THROUGHPUT: Final = 0.98


class FairnessMeasures(Struct, frozen=True, kw_only=True):
    """What the others got, and what the engine did.

    `gap` is the largest difference of service between two over the VTC bound; None with one tenant.
    """

    others_mean_s: float
    others_p99_s: float
    tokens_s: float
    gap: float | None


PoolAndPhase: TypeAlias = tuple[str, str]
Cell: TypeAlias = comparison.Cell[PoolAndPhase, FairnessMeasures]
Groups: TypeAlias = dict[PoolAndPhase, list[Cell]]


def run(engine: EngineModel, *, quick: bool, jobs: int) -> None:
    """Replay all phases; the result is written after each."""
    report = Report("S4", look=quick)
    cells: list[Cell] = []
    requests = QUICK_REQUESTS if quick else REQUESTS
    for done in compare(_cases(engine, requests, 1 if quick else SEEDS), fairness_measures, jobs):
        cells.append(done)
        report.say(_line(done))
        report.write(list(rows_of(cells)), list(targets(cells)))
    report.conclude(list(rows_of(cells)), list(targets(cells)))


def fairness_measures(done: ReplayRun) -> FairnessMeasures:
    """A hook: the measures of a run."""
    workload, results = done.workload, done.results
    others = response_of_others(workload, results.finished_s)
    several = len(np.unique(compared(workload)[1])) > 1
    shape = done.case.engine.shape
    tokens = workload.prompt_tokens + workload.generation_tokens
    return FairnessMeasures(
        others_mean_s=float(others.mean()),
        others_p99_s=float(np.quantile(others, 0.99)),
        tokens_s=float(tokens[np.isfinite(results.finished_s)].sum() / results.finished_s.max()),
        gap=largest_gap(workload, results) / bound(workload, shape.pages * shape.page_tokens)
        if several
        else None,
    )


def response_of_others(workload: Workload, finished_s: Floats) -> Floats:
    """The response times of all that are compared but the first, or of one tenant alone."""
    whose = compared(workload)[1]
    others = (whose > 0) | (whose.max() == 0)
    found: Floats = (finished_s - workload.arrived_s)[others & np.isfinite(finished_s)]
    return found


def rows_of(cells: Iterable[Cell]) -> Iterator[Row]:
    """A row for each pool, phase and policy; ratios are over the equal phase, seed by seed."""
    groups = group_by_key(cells)
    for (pool, name), group in groups.items():
        for policy in CONTENDERS:
            found = [each.measured[policy] for each in group]
            gaps = [each.gap for each in found if each.gap is not None]
            yield {
                "pool": pool,
                "tenants": name,
                "policy": policy,
                "others mean s": float(np.mean([each.others_mean_s for each in found])),
                "others p99 s": float(np.mean([each.others_p99_s for each in found])),
                "p99/equal": p99_ratio(groups, pool, name, policy),
                "tokens/s": float(np.mean([each.tokens_s for each in found])),
                "gap/bound": max(gaps, default=None),
                "seeds": len(group),
            }


def targets(cells: Iterable[Cell]) -> Iterator[Target]:
    """What others notice, what fairness costs, and the service gap."""
    groups = group_by_key(cells)
    for pool in POOLS:
        for name, equal in COMPARED_WITH.items():
            ratio = p99_ratio(groups, pool, name, OURS)
            yield target(f"{pool}, {name}: others' p99 over {equal}", ratio, MOST_SLOWER, "at most")
        yield target(
            f"{pool}: tokens/s over those without tenants",
            throughput_ratio(groups, pool),
            LEAST_THROUGHPUT,
        )
        gaps = [
            each.measured[OURS].gap
            for (found, _), group in groups.items()
            for each in group
            if found == pool
        ]
        yield target(
            f"{pool}: service gap over the VTC bound",
            max((gap for gap in gaps if gap is not None), default=None),
            1.0,
            "at most",
        )


def p99_ratio(groups: Groups, pool: str, name: str, policy: str) -> float | None:
    """The others' p99 over that in the equal phase, of the seeds that both have."""
    equal = COMPARED_WITH.get(name, name)
    one, other = groups.get((pool, name), []), groups.get((pool, equal), [])
    pairs = list(zip(one, other, strict=False))
    if not pairs or name == ONE_TENANT:
        return None
    ratios = [a.measured[policy].others_p99_s / b.measured[policy].others_p99_s for a, b in pairs]
    return mean_ratio(ratios).mean


def throughput_ratio(groups: Groups, pool: str) -> float | None:
    """Tokens a second with five equal tenants, over those of the same requests of one tenant."""
    pairs = list(
        zip(groups.get((pool, EQUAL), []), groups.get((pool, ONE_TENANT), []), strict=False)
    )
    if not pairs:
        return None
    return mean_ratio(
        [a.measured[OURS].tokens_s / b.measured[OURS].tokens_s for a, b in pairs]
    ).mean


def _cases(engine: EngineModel, requests: int, seeds: int) -> Iterator[Case[PoolAndPhase]]:
    fitting = fitting_smallest_pool(synthetic_lengths(), engine)
    scenario = Scenario(source=fitting, arrivals="poisson", sample_size=requests)
    for pool, size in POOLS.items():
        sized = pool_of(size, engine, fitting)
        for seed in range(seeds):
            rate_s = saturated_rate(scenario, sized, seed)
            for name in PHASES:
                yield Case(
                    key=(pool, name),
                    seed=seed,
                    requests=partial(phase, name, scenario, rate_s, seed),
                    engine=sized,
                    contenders=[Contender.of(each) for each in CONTENDERS],
                )


def _line(done: Cell) -> str:
    shown = ", ".join(f"{name} {each.others_p99_s:.1f} s" for name, each in done.measured.items())
    return f"{'/'.join(done.key)}, seed {done.seed}: others' p99 {shown}"
