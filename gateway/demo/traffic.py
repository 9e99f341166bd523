"""Which questions are asked when: the same at every run."""

from collections.abc import Sequence
from itertools import cycle
from random import Random
from typing import Final

from msgspec import Struct

from gateway.demo.examples import Examples

SEED: Final = 7
BURST: Final = (12, 28)  # requests
BURST_S: Final = 0.5  # within which a burst arrives
PAUSE_S: Final = (0.2, 0.8)  # from one burst to the next: on two cores a queue forms
OPEN_APPS: Final = frozenset({"diary"})  # whose answers are drawn, each with a seed of its own


class Arrival(Struct, frozen=True):
    """A request to send `at_s` seconds after the start."""

    at_s: float
    app: str
    question: str
    temperature: float
    seed: int


def plan_traffic(examples: Examples, requests: int, half: int) -> list[Arrival]:
    """So many requests of all apps in turn, shuffled, in bursts.

    Half 0 and half 1 have the same apps and seeds at the same times, and no question in common.
    A half that has fewer questions than are wanted of an app asks them again.
    """
    rng = Random(SEED)
    apps = [app for _, app in zip(range(requests), cycle(sorted(examples)), strict=False)]
    rng.shuffle(apps)
    times = arrival_times(rng, requests)
    questions = {app: cycle(_half(asked, half)) for app, asked in examples.items()}
    return [
        Arrival(
            at_s=at_s,
            app=app,
            question=next(questions[app]),
            temperature=1.0 if app in OPEN_APPS else 0.0,
            seed=number,
        )
        for number, (at_s, app) in enumerate(zip(times, apps, strict=True))
    ]


def arrival_times(rng: Random, requests: int) -> list[float]:
    """Rising times in seconds, in bursts with pauses between."""
    times: list[float] = []
    start_s = 0.0
    while len(times) < requests:
        size = min(rng.randint(*BURST), requests - len(times))
        times += sorted(start_s + rng.uniform(0.0, BURST_S) for _ in range(size))
        start_s += BURST_S + rng.uniform(*PAUSE_S)
    return times


def _half(questions: Sequence[str], half: int) -> Sequence[str]:
    return questions[half::2] or questions
