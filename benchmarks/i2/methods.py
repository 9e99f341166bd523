"""The selectors that are compared, and the shares of the tokens that they may attend to."""

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from torch import Tensor

from benchmarks.i2.infinigen import InfiniGen
from benchmarks.i2.memory import TextMemory
from benchmarks.i2.selectors import (
    SINKS,
    Budget,
    CodedKeys,
    Everything,
    HeavyHitters,
    Oracle,
    Pages,
    Random,
    Recent,
    Selector,
)
from engine.offload.layout import FETCH_SHARE, MIN_FETCHED

SHARES: Final = (0.05, 0.1, FETCH_SHARE)
FULL, ORACLE, OURS = "full", "oracle", "ours"
THRESHOLD_FREE: Final = 1e9  # an alpha that every score is within

Make: TypeAlias = Callable[[TextMemory, Budget], Selector]


class Method(NamedTuple):
    """A selector under a name; only at the largest share where `once`."""

    name: str
    make: Make
    once: bool = False


def methods(skew: list[Tensor]) -> list[Method]:
    """All selectors; `skew` has InfiniGen's rotation of each layer."""
    return [
        Method(ORACLE, lambda _, budget: Oracle(budget)),
        Method(OURS, CodedKeys),
        Method("InfiniGen", partial(InfiniGen, skew=skew)),
        Method(
            "InfiniGen, no threshold",
            partial(InfiniGen, skew=skew, alpha=THRESHOLD_FREE),
            once=True,
        ),
        Method("Quest pages", lambda _, budget: Pages(budget)),
        Method("H2O", HeavyHitters),
        Method("sinks and recent", lambda _, budget: Recent(budget, SINKS)),
        Method("recent", lambda _, budget: Recent(budget, 0), once=True),
        Method("random", lambda _, budget: Random(budget), once=True),
    ]


class Run(NamedTuple):
    """A method at a share of the tokens."""

    method: str
    share: float
    make: Callable[[TextMemory], Selector]


def full_attention() -> Run:
    """Full attention."""
    return Run(FULL, 1.0, lambda _: Everything())


def runs(skew: list[Tensor]) -> list[Run]:
    """Every method at every share."""
    return [
        Run(method.name, share, partial(_made, method.make, budget_of(share)))
        for method in methods(skew)
        for share in SHARES
        if share == FETCH_SHARE or not method.once
    ]


def budget_of(share: float) -> Budget:
    """A share of the tokens before; at least what the product fetches at least."""
    return lambda tokens: min(tokens, max(MIN_FETCHED, int(share * tokens)))


def _made(make: Make, budget: Budget, memory: TextMemory) -> Selector:
    return make(memory, budget)
