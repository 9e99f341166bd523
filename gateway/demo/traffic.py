"""Plans which question is sent when; the plan is the same in every run."""

from collections.abc import Sequence
from itertools import cycle
from random import Random
from typing import Final

from msgspec import Struct

from gateway.demo.apps import DemoApp

SEED: Final = 7
BURST_REQUESTS: Final = (12, 28)  # requests
BURST_S: Final = 0.5  # duration of a burst
PAUSE_S: Final = (0.2, 0.8)  # from one burst to the next: on two cores a queue forms


class PlannedRequest(Struct, frozen=True):
    """A request to send `at_s` seconds after the start."""

    at_s: float
    app: DemoApp
    question: str
    seed: int


def plan_traffic(apps: Sequence[DemoApp], requests: int, half: int) -> list[PlannedRequest]:
    """`requests` requests, spread evenly over all apps, shuffled, in bursts.

    `half` is 0 or 1: both have the same apps and seeds at the same times, and no question in
    common. An app with fewer questions than requests repeats them.
    """
    rng = Random(SEED)
    in_turn = sorted(apps, key=lambda app: app.name)
    order = [app for _, app in zip(range(requests), cycle(in_turn), strict=False)]
    rng.shuffle(order)
    times = arrival_times(rng, requests)
    questions = {app.name: cycle(_half(app.questions, half)) for app in apps}
    return [
        PlannedRequest(at_s, app, next(questions[app.name]), seed)
        for seed, (at_s, app) in enumerate(zip(times, order, strict=True))
    ]


def arrival_times(rng: Random, requests: int) -> list[float]:
    """Sorted arrival times in seconds: bursts with pauses between."""
    times: list[float] = []
    start_s = 0.0
    while len(times) < requests:
        size = min(rng.randint(*BURST_REQUESTS), requests - len(times))
        times += sorted(start_s + rng.uniform(0.0, BURST_S) for _ in range(size))
        start_s += BURST_S + rng.uniform(*PAUSE_S)
    return times


def _half(questions: Sequence[str], half: int) -> Sequence[str]:
    return questions[half::2] or questions
