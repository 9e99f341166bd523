"""Jobs in a simulated engine: lines of several kinds in the plan's order, next to other work."""

import math
from random import Random
from typing import Final

import numpy as np
from msgspec import Struct

from benchmarks.finish_band.course import Course, Point
from gateway.jobs.batches.progress.work import PROMPT_WORK
from gateway.quantiles import Floats

STEP_S: Final = (0.004, 0.02)  # of a step without sequences; ranges are log-uniform
SEQUENCE_S: Final = 0.1  # of that, for each sequence
PROMPT_S: Final = 0.02  # and for each prompt token
KV_TOKENS: Final = (4_000, 64_000)
TOKENS: Final = (20_000, 1_000_000)  # of all answers
MEDIAN: Final = (8, 300)  # tokens of a kind's answers
SPREAD: Final = (0.2, 0.9)  # in log, of the answers
KNOWN: Final = 0.7  # share of its variance that predictions know
BIAS: Final = 0.4  # in log, of a kind's predictions
PROMPT: Final = (20, 600)
PHASE_S: Final = (5.0, 300.0)  # mean of the times with and without interactive requests
SLOWDOWN: Final = (1.2, 4.0)  # by interactive requests, while there are any
SEEN_S: Final = 0.5  # between two looks at the work done


class _Lines(Struct):
    """Lines in the order in which they start: tokens of (lines,)."""

    prompt: Floats
    predicted: Floats
    answer: Floats

    @property
    def work(self) -> Floats:
        """The work of each."""
        return self.predicted + PROMPT_WORK * self.prompt


def simulated_course(seed: int) -> Course:
    """A job of random size and kind."""
    rng, random = np.random.default_rng(seed), Random(seed)
    lines = _in_order(_lines(rng, random))
    step_s, kv_tokens = _drawn(random, STEP_S), _drawn(random, KV_TOKENS)
    phase_s, slowdown = _drawn(random, PHASE_S), _drawn(random, SLOWDOWN)
    needed = lines.prompt + lines.predicted
    left, size, work = list[float](), list[float](), list[float]()
    now = done = 0.0
    following, busy, until = 0, random.random() < 0.5, random.expovariate(1 / phase_s)  # noqa: PLR2004
    points: list[Point] = [(0.0, 0.0)]
    while following < len(needed) or left:
        while following < len(needed) and (not left or sum(size) + needed[following] <= kv_tokens):
            left.append(float(lines.answer[following]))
            size.append(float(needed[following]))
            work.append(float(lines.work[following]))
            now += step_s * PROMPT_S * float(lines.prompt[following]) * (slowdown if busy else 1.0)
            following += 1
        pace_s = step_s * (1 + SEQUENCE_S * len(left)) * (slowdown if busy else 1.0)
        steps = max(min(*left, math.ceil((until - now) / pace_s)), 1.0)
        now += steps * pace_s
        if now >= until:
            busy, until = not busy, now + random.expovariate(1 / phase_s)
        ended = [place for place, rest in enumerate(left) if rest <= steps]
        left = [rest - steps for rest in left]
        for place in reversed(ended):
            done += work.pop(place)
            del left[place], size[place]
        if ended and now - points[-1][0] >= SEEN_S:
            points.append((now, done))
    return Course(float(lines.work.sum()), points, now)


def _lines(rng: np.random.Generator, random: Random) -> list[_Lines]:
    """Lines of one to three kinds, each with its share of the tokens."""
    kinds = random.randint(1, 3)
    tokens = _drawn(random, TOKENS) / kinds
    found = []
    for _ in range(kinds):
        median, spread = _drawn(random, MEDIAN), random.uniform(*SPREAD)
        count = max(int(tokens / median), 4)
        known = rng.normal(0.0, spread * math.sqrt(KNOWN), count)
        unknown = rng.normal(0.0, spread * math.sqrt(1 - KNOWN), count)
        found.append(
            _Lines(
                prompt=np.full(count, _drawn(random, PROMPT)),
                predicted=median * np.exp(known + random.gauss(0.0, BIAS)),
                answer=np.ceil(median * np.exp(known + unknown)),
            )
        )
    return found


def _in_order(kinds: list[_Lines]) -> _Lines:
    """By falling ratio of expected to prompt tokens, as groups are; longest first in each."""
    ranked = sorted(kinds, key=lambda kind: -float(kind.predicted.sum() / kind.prompt.sum()))
    orders = [np.argsort(-kind.predicted) for kind in ranked]
    columns = [
        np.concatenate(
            [getattr(kind, name)[order] for kind, order in zip(ranked, orders, strict=True)]
        )
        for name in ("prompt", "predicted", "answer")
    ]
    return _Lines(*columns)


def _drawn(random: Random, bounds: tuple[float, float]) -> float:
    """Log-uniform."""
    return math.exp(random.uniform(math.log(bounds[0]), math.log(bounds[1])))
