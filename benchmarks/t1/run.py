"""T1: what a tenant's budget lets through when answers are held by their predicted length.

Periods of real lengths and predictions, with Poisson arrivals and fifty answers at once on average.
The budget is a share above 1 of the period's true use, so that every refusal is a wrong one.
"""

from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np
from msgspec import structs

from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.text_requests import text_requests
from benchmarks.t1.period import Arrival, Outcome, replay
from benchmarks.t1.rules import OURS, rules
from gateway.evaluation.corpus import read_corpus
from gateway.evaluation.lengths import MAX_TOKENS, count_words
from gateway.quantiles import LEVELS, P90
from gateway.replay.workload.workload import Workload
from gateway.scheduling.requests import QueuedRequest

BUDGETS: Final = (1.02, 1.05, 1.2)  # of the period's true use
JUDGED: Final = 1.05
PERIODS: Final = (500, 2_000, 5_000)  # requests
JUDGED_PERIOD: Final = 5_000
CONCURRENT: Final = 50  # answers at once, on average
SEEDS: Final = 10
MAX_HELD: Final = 1.7
MAX_WRONG_PERCENT: Final = 0.1
MAX_OVERRUN_PERCENT: Final = 1.0
EARLY_S: Final = 1_000_000.0  # of the epoch: whole periods lie in one month


def run(data: Path) -> None:
    """Replay all periods under all rules."""
    report = Report("T1", look=False)
    texts = text_requests(data, 1, report.say)
    found = rules(_app_p90(data))
    rows: list[Row] = []
    for size, share in product(PERIODS, BUDGETS):
        outcomes: dict[str, list[tuple[Outcome, int]]] = {name: [] for name in found}
        for seed in range(SEEDS):
            arrivals = _period(texts, size, seed)
            budget = round(share * sum(arrival.use for arrival in arrivals))
            for name, rule in found.items():
                outcomes[name].append((replay(arrivals, budget, rule), budget))
        rows += [_row(size, share, name, each) for name, each in outcomes.items()]
        report.say(f"{size} requests, budget {share}")
    report.conclude(rows, list(_targets(rows)))


def _app_p90(data: Path) -> dict[str, float]:
    """The 0.9 quantile of the lengths of each app's train lines."""
    lines = read_corpus(data, data).train
    lengths = count_words([line.output for line in lines])
    names = np.array([line.app for line in lines])
    return {
        str(name): float(np.quantile(lengths[names == name], LEVELS[P90]))
        for name in np.unique(names)
    }


def _period(texts: Workload, size: int, seed: int) -> list[Arrival]:
    """Requests of a period in order of arrival."""
    random = np.random.default_rng(seed)
    chosen = random.choice(len(texts), size, replace=False)
    arrivals = [
        Arrival(texts.request(row), texts.apps[texts.app[row]], int(texts.generation_tokens[row]))
        for row in chosen.tolist()
    ]
    gap_s = fmean(arrival.lasts_s for arrival in arrivals) / CONCURRENT
    times = EARLY_S + np.cumsum(random.exponential(gap_s, size))
    return [
        arrival._replace(request=_arriving(arrival, at_s))
        for arrival, at_s in zip(arrivals, times.tolist(), strict=True)
    ]


def _arriving(arrival: Arrival, at_s: float) -> QueuedRequest:
    return structs.replace(arrival.request, arrived_s=at_s, max_tokens=MAX_TOKENS)


def _row(size: int, share: float, name: str, outcomes: Iterable[tuple[Outcome, int]]) -> Row:
    """The means over all seeds."""
    found = list(outcomes)
    asked = size * len(found)
    used_token_s = sum(each.used_token_s for each, _ in found)
    return {
        "requests": size,
        "budget / true use": share,
        "hold": name,
        "held / used at admission": sum(each.held_at_admission_token_s for each, _ in found)
        / used_token_s,
        "held / used over life": sum(each.held_token_s for each, _ in found) / used_token_s,
        "wrongly refused %": 100 * sum(each.wrongly_refused for each, _ in found) / asked,
        "refused %": 100 * sum(each.refused for each, _ in found) / asked,
        "overrun %": 100 * fmean(max(each.used / budget - 1, 0) for each, budget in found),
        "used of budget %": 100 * fmean(each.used / budget for each, budget in found),
        "grown %": 100 * sum(each.grown for each, _ in found) / asked,
    }


def _targets(rows: Iterable[Row]) -> Iterator[Target]:
    (judged,) = (
        row
        for row in rows
        if (row["requests"], row["budget / true use"], row["hold"]) == (JUDGED_PERIOD, JUDGED, OURS)
    )
    for measure in ("held / used at admission", "held / used over life"):
        yield target(f"{measure}, weighted by time", judged[measure], MAX_HELD, "at most")
    yield target("wrongly refused %", judged["wrongly refused %"], MAX_WRONG_PERCENT, "at most")
    yield target("overrun %", judged["overrun %"], MAX_OVERRUN_PERCENT, "at most")
