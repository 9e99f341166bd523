"""The order of lines in a simulated engine: how long a job takes, how much is pinned meanwhile.

The engine decodes a token of each running line in a step and computes prompts with what is left of
the step's token budget. A line starts when its predicted KV memory fits, and holds it until it has
ended; a group's prefix is computed with its first line and held until its last has ended.
"""

from collections import deque
from typing import Final

import numpy as np
from msgspec import Struct

from benchmarks.harness.report import Row
from gateway.jobs.planning.line_order import rank_lines
from gateway.jobs.prefix_groups import ALONE, PrefixGroups
from gateway.jobs.prompts import Ints
from gateway.quantiles import Floats

KV_TOKENS: Final = 40_000
STEP_TOKENS: Final = 512
TOKEN_COST: Final = 0.01  # of a token in a step, where an empty step costs 1
LINES: Final = 1_000
DEGREES: Final = (4, 16, 64)
LOG_ERROR: Final = 0.4  # of a predicted length
SEEDS: Final = 3


class OrderedJob(Struct, frozen=True):
    """Lines with their own prompt tokens, predicted and true lengths, in groups."""

    groups: PrefixGroups
    own: Ints
    predicted: Floats
    lengths: Ints

    def orders(self) -> dict[str, Ints]:
        """The lines in several orders."""
        prompts = self.own + self.groups.shared_tokens()
        ranks = rank_lines(self.groups, prompts, self.predicted)
        first = np.full(len(self.groups.prefix_tokens), len(ranks))
        grouped = self.groups.group_of != ALONE
        np.minimum.at(first, self.groups.group_of[grouped], ranks[grouped])
        unit = np.where(grouped, np.append(first, 0)[self.groups.group_of], ranks)
        random = np.random.default_rng(1)
        shuffled = random.permutation(len(ranks))[unit]
        anyhow = random.permutation(len(ranks))
        return {
            "decode-heavy first, longest first": np.argsort(ranks),
            "decode-heavy first, shortest first": np.lexsort((self.predicted, unit)),
            "decode-heavy first, any line first": np.lexsort((anyhow, unit)),
            "any group first, longest first": np.lexsort((-self.predicted, shuffled)),
            "prompt-heavy first, longest first": np.lexsort((-self.predicted, -unit)),
        }


def measure_orders(degree: int) -> list[Row]:
    """Makespan and pinned token-seconds of each order, over those of ours; means over seeds."""
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(SEEDS):
        job = _job(seed, degree)
        for name, order in job.orders().items():
            found.setdefault(name, []).append(_Engine(job).run(order.tolist()))
    means = {name: np.mean(each, axis=0) for name, each in found.items()}
    ours = next(iter(means.values()))
    return [
        {
            "order": name,
            "degree": degree,
            "makespan": float(mean[0] / ours[0]),
            "pinned": float(mean[1] / ours[1]),
        }
        for name, mean in means.items()
    ]


def _job(seed: int, degree: int) -> OrderedJob:
    random = np.random.default_rng(seed)
    count = LINES // degree
    group_of = np.append(np.repeat(np.arange(count), degree), np.full(LINES // 25, ALONE))
    prefixes = 16 * random.integers(10, 80, count)
    usual = np.exp(random.uniform(2.5, 5.5, count + 1))[group_of]
    predicted = usual * np.exp(0.6 * random.standard_normal(len(group_of)))
    lengths = predicted * np.exp(LOG_ERROR * random.standard_normal(len(group_of)))
    return OrderedJob(
        PrefixGroups(group_of, prefixes, np.full(count, ALONE)),
        random.integers(10, 200, len(group_of)),
        predicted,
        np.maximum(1, lengths.round()).astype(np.int64),
    )


class _Engine:
    def __init__(self, job: OrderedJob) -> None:
        self._group_of: list[int] = job.groups.group_of.tolist()
        self._prefixes: list[int] = [*job.groups.prefix_tokens.tolist(), 0]
        self._own: list[int] = job.own.tolist()
        self._lengths: list[int] = job.lengths.tolist()
        self._held: list[float] = (job.own + job.predicted).tolist()
        self._members: list[int] = job.groups.sizes.tolist()
        self._pinned: set[int] = {ALONE}
        self._used = 0.0
        self._running: dict[int, int] = {}  # tokens to come
        self._prompts: deque[tuple[int, int]] = deque()  # line, tokens to compute

    def run(self, order: list[int]) -> tuple[float, float]:
        """The time until all have ended, and the integral of pinned tokens over it."""
        waiting, now, pinned = deque(order), 0.0, 0.0
        while waiting or self._running or self._prompts:
            while waiting and self._start(waiting[0]):
                waiting.popleft()
            held = sum(self._prefixes[group] for group in self._pinned)
            took = 1 + TOKEN_COST * self._step()
            now, pinned = now + took, pinned + held * took
        return now, pinned

    def _start(self, line: int) -> bool:
        group = self._group_of[line]
        prefix = 0 if group in self._pinned else self._prefixes[group]
        held = self._held[line] + prefix
        if self._used + held > KV_TOKENS and (self._running or self._prompts):
            return False
        self._pinned.add(group)
        self._used += held
        self._prompts.append((line, self._own[line] + prefix))
        return True

    def _step(self) -> int:
        """Compute a step; returns its tokens."""
        tokens = len(self._running)
        for line in list(self._running):
            self._running[line] -= 1
            if not self._running[line]:
                self._end(line)
        while self._prompts and tokens < STEP_TOKENS:
            line, left = self._prompts.popleft()
            computed = min(left, STEP_TOKENS - tokens)
            tokens += computed
            if computed < left:
                self._prompts.appendleft((line, left - computed))
            else:
                self._running[line] = self._lengths[line]
        return tokens

    def _end(self, line: int) -> None:
        del self._running[line]
        self._used -= self._held[line]
        group = self._group_of[line]
        if group != ALONE:
            self._members[group] -= 1
            if not self._members[group]:
                self._pinned.remove(group)
                self._used -= self._prefixes[group]
