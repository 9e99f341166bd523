"""The requests of S4: five tenants in overload, one of which floods or is under-predicted.

Or the first tenant has two apps, or an app with two users, one of which floods.
"""

from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.workload import Workload

TENANTS: Final = 5
LOAD: Final = 1.5  # of all tenants together when they are equal
FLOOD: Final = 10  # times the requests of the others
UNDER_PREDICTED: Final = 5.0
SECOND_PART: Final = 10_000  # seeds of a second app's or user's requests

EQUAL: Final = "equal"
ONE_TENANT: Final = "no tenants"
FLOODED: Final = "one at ten times"
LYING: Final = "one predicted a fifth"
TWO_APPS: Final = "two apps"
FLOODED_APP: Final = "an app at ten times"
TWO_USERS: Final = "two users"
FLOODED_USER: Final = "a user at ten times"
PHASES: Final = (
    EQUAL,
    ONE_TENANT,
    FLOODED,
    LYING,
    TWO_APPS,
    FLOODED_APP,
    TWO_USERS,
    FLOODED_USER,
)
COMPARED_WITH: Final = {  # the phase in which all do the same
    FLOODED: EQUAL,
    LYING: EQUAL,
    FLOODED_APP: TWO_APPS,
    FLOODED_USER: TWO_USERS,
}

Level: TypeAlias = Literal["tenant", "app", "user"]
NOT_COMPARED: Final = -1


def phase(name: str, scenario: Scenario, rate_s: float, seed: int) -> Workload:
    """The requests of a phase; those of all tenants but the first are the same in each.

    `rate_s` is what the engine sustains. `no tenants`: those of `equal`, as if of one tenant.
    """
    each = [_tenant(scenario, LOAD * rate_s / TENANTS, seed, n) for n in range(TENANTS)]
    if name == FLOODED:
        first = _tenant(
            replace(scenario, sample_size=FLOOD * len(each[0])),
            FLOOD * LOAD * rate_s / TENANTS,
            seed,
            0,
        )
        return together([first, *each[1:]])
    if name == LYING:
        first = replace(each[0], quantiles=np.maximum(each[0].quantiles / UNDER_PREDICTED, 1.0))
        return together([first, *each[1:]])
    if name in {TWO_APPS, FLOODED_APP, TWO_USERS, FLOODED_USER}:
        times = FLOOD if name in {FLOODED_APP, FLOODED_USER} else 1
        level: Level = "app" if name in {TWO_APPS, FLOODED_APP} else "user"
        return together([_in_two(scenario, rate_s, seed, level, times), *each[1:]])
    workload = together(each)
    if name == ONE_TENANT:
        return replace(workload, tenant=np.zeros_like(workload.tenant))
    return workload


def compared(workload: Workload) -> tuple[Level, npt.NDArray[np.int32]]:
    """What a phase compares, and whose each request is, (n,): 0 for the one that may do more.

    The parts of the first tenant, where it has several; else the tenants.
    """
    first = workload.tenant == 0
    for level in ("app", "user"):
        numbers = getattr(workload, level)
        if len(np.unique(numbers[first])) > 1:
            return level, np.where(first, numbers, NOT_COMPARED).astype(np.int32)
    return "tenant", workload.tenant.astype(np.int32)


def _in_two(scenario: Scenario, rate_s: float, seed: int, level: Level, times: int) -> Workload:
    """The first tenant's requests from two apps or users, the first of which sends more."""
    half = (scenario.sample_size or 0) // 2
    rate_each_s = LOAD * rate_s / TENANTS / 2
    many = replace(scenario, sample_size=times * half)
    parts = [
        many.workload(times * rate_each_s, TENANTS * seed),
        replace(scenario, sample_size=half).workload(rate_each_s, SECOND_PART + seed),
    ]
    if level == "app":
        named = [replace(part, apps=[f"app {number}"]) for number, part in enumerate(parts)]
    else:
        named = [
            replace(part, user=np.full_like(part.user, number)) for number, part in enumerate(parts)
        ]
    return named[0].joined(named[1])


def together(tenants: list[Workload]) -> Workload:
    """The requests of several tenants, by time of arrival."""
    names = [f"tenant {number}" for number in range(len(tenants))]

    def column(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(each, name) for each in tenants])

    return Workload.of(
        column("arrived_s"),
        column("prompt_tokens"),
        column("generation_tokens"),
        max_tokens=column("max_tokens"),
        quantiles=column("quantiles"),
        app=column("app"),
        user=column("user"),
        apps=max((each.apps for each in tenants), key=len),
        tenants=names,
        tenant=np.repeat(np.arange(len(tenants)), [len(each) for each in tenants]),
    )


def _tenant(scenario: Scenario, rate_s: float, seed: int, number: int) -> Workload:
    return scenario.workload(rate_s, TENANTS * seed + number)
