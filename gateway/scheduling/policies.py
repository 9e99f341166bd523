"""The scheduling policies by name, behind one interface."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Final, Literal, Protocol, TypeAlias, get_args

from gateway.scheduling.admission import Capacity
from gateway.scheduling.batch import Batch
from gateway.scheduling.batcher import Batcher
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.fixed import FixedPolicy
from gateway.scheduling.ranked import Rank, RankedPolicy
from gateway.scheduling.response_ratio import Line, ratio_line
from gateway.scheduling.waiting import Running, Waiting, WaitingBatch

__all__ = ["NAMES", "Dispatch", "Policy", "PolicyName", "build_policy"]

PolicyName: TypeAlias = Literal["lmaas", "hrrn", "sjf", "fcfs", "fixed"]
NAMES: Final[tuple[PolicyName, ...]] = get_args(PolicyName)


class Policy(Protocol):
    """The queue before one engine, and the order in which it empties.

    No clock of its own: `now_s` and `arrived_s` come from one clock that never runs backwards.
    """

    @property
    def name(self) -> str:
        """What it is called in settings, metrics and records."""

    def arrive(self, request: Waiting) -> None:
        """Let a request wait. ValueError if one with this id waits already."""

    def withdraw(self, request_id: str) -> bool:
        """Forget a waiting request, whose client has gone; False if it does not wait here."""

    def dispatch(self, running: Sequence[Running], now_s: float) -> Dispatch | None:
        """The best batch, as much of it as fits beside `running`; None if nothing waits or fits.

        With nothing running, something is always dispatched. Call again until None.
        """

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn how long a batch of this size, longest prompt and longest generation took."""

    def resize(self, pages: int, page_tokens: int) -> None:
        """Count on a KV pool of this size from now on; what waits stays."""

    def waiting(self) -> Sequence[WaitingBatch]:
        """The batches that wait, oldest batch first."""

    def __len__(self) -> int:
        """Requests waiting."""

    def check(self) -> None:
        """AssertionError where the queue contradicts itself; for tests."""


LOOKAHEAD: Final = 8  # batches tried when nothing of the best one fits


def by_arrival(batch: Batch, _serving_s: float) -> Line:
    """First come, first served."""
    return Line(0.0, batch.oldest_s, 1.0)


def by_length(batch: Batch, _serving_s: float) -> Line:
    """Shortest predicted generation (median) first."""
    return Line(-batch.generation_tokens, 0.0, 0.0)


def by_ratio(batch: Batch, serving_s: float) -> Line:
    """Highest response ratio next."""
    return ratio_line(batch.oldest_s, serving_s)


RANKS: Final[dict[PolicyName, Rank]] = {
    "lmaas": by_ratio,
    "hrrn": by_ratio,
    "sjf": by_length,
    "fcfs": by_arrival,
}


def build_policy(
    name: PolicyName,
    *,
    waste_limit: float,
    max_delay_s: float,
    admission_z: float,
    fixed_batch: int = 8,
    ids: Iterator[str] | None = None,
) -> Policy:
    """An empty queue under the named policy; all but `fixed` admit by the future KV peak.

    It counts on no KV memory until `resize` tells of some: until then requests go one by one.

    `lmaas`: batches of similar length (`waste_limit` is Φ, in token reads) by response ratio;
    requests that waited more than `max_delay_s` go first, oldest first. `hrrn`, `sjf`, `fcfs`: the
    plain orders, each request a batch of its own, none passed by another that fits better.
    `fixed`: `fixed_batch` requests at a time in order of arrival, reserved at their longest.
    `ids` names batches, `b1`, `b2`, … by default. KeyError for an unknown name.
    """
    ids = ids if ids is not None else map("b{}".format, count(1))
    capacity = Capacity(pages=0, page_tokens=1, z=admission_z)
    if name == "fixed":
        return FixedPolicy(fixed_batch, capacity, ids)
    rank = RANKS[name]
    ours = name == "lmaas"
    return RankedPolicy(
        name,
        rank=rank,
        batcher=Batcher(waste_limit if ours else None, capacity.tokens, ids),
        capacity=capacity,
        ids=ids,
        lookahead=LOOKAHEAD if ours else 1,
        max_delay_s=max_delay_s if ours else None,
    )
