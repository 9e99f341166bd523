"""The requests of S4: five tenants in overload, one of which floods or is under-predicted."""

from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.workload import Workload

TENANTS: Final = 5
LOAD: Final = 1.5  # of all tenants together when they are equal
FLOOD: Final = 10  # times the requests of the others
UNDER_PREDICTED: Final = 5.0

EQUAL: Final = "equal"
ONE_TENANT: Final = "no tenants"
FLOODED: Final = "one at ten times"
LYING: Final = "one predicted a fifth"
PHASES: Final = (EQUAL, ONE_TENANT, FLOODED, LYING)


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
    workload = together(each)
    if name == ONE_TENANT:
        return replace(workload, tenant=np.zeros_like(workload.tenant))
    return workload


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
        tenants=names,
        tenant=np.repeat(np.arange(len(tenants)), [len(each) for each in tenants]),
    )


def _tenant(scenario: Scenario, rate_s: float, seed: int, number: int) -> Workload:
    return scenario.workload(rate_s, TENANTS * seed + number)
