"""Which fault comes when: each kind as often as the others, in an order that a seed draws."""

from collections.abc import Sequence
from random import Random
from typing import Final

from msgspec import Struct

KILLED: Final = ("engine", "predictor", "postgres", "gateway")
STOPPED: Final = ("engine", "predictor", "postgres")
KINDS: Final = (
    *(f"kill {part}" for part in KILLED),
    *(f"stop {part}" for part in STOPPED),
    "storm",
)
OWN_SERVER: Final = ("kill server", "stop server", "restart server", "kill gateway")


class Fault(Struct, frozen=True):
    """A fault that began after `at_s` seconds, and after how many everything was well again."""

    kind: str
    at_s: float
    recovered_s: float


def in_order(kinds: Sequence[str], rounds: int, seed: int, *, disk: bool = False) -> list[str]:
    """Each kind `rounds` times; the disk is full once, if it can be filled."""
    random = Random(seed)
    order: list[str] = []
    for _ in range(rounds):
        one_round = list(kinds)
        random.shuffle(one_round)
        order += one_round
    if disk:
        order.insert(len(order) // 2, "disk full")
    return order
