"""The scheduling policies by name, behind one interface."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, Protocol, TypeAlias, TypeGuard, get_args, runtime_checkable

from msgspec import Struct

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import Admission, AdmissionName
from gateway.scheduling.admission.reservation import SumOfReservations
from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.baselines.capped import CappedPolicy
from gateway.scheduling.baselines.ranked import RankedPolicy, RankFunction, by_length, by_ratio
from gateway.scheduling.baselines.s3 import S3Policy
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.lmaas.inner_shares import Level, ShareLevel
from gateway.scheduling.lmaas.policy import LmaasPolicy
from gateway.scheduling.lmaas.tenant_queue import OrderBounds
from gateway.scheduling.magnus.fixed import FixedPolicy, SimilarPolicy
from gateway.scheduling.magnus.policy import BatchRank, MagnusPolicy, highest_ratio, oldest_first
from gateway.scheduling.magnus.wma import WasteLimit
from gateway.scheduling.requests import QueuedRequest, RunningSequence, WaitingBatch
from gateway.scheduling.routing.admission import RoutedAdmission

__all__ = ["POLICY_NAMES", "Dispatch", "Options", "Policy", "PolicyName", "build_policy"]

PolicyName: TypeAlias = Literal[
    "lmaas",
    "hrrn",
    "sjf",
    "fcfs",
    "s3",
    "magnus",
    "magnus-fcfs",
    "fixed-predicted",
    "fixed",
    "conservative-continuous",
]
POLICY_NAMES: Final[tuple[PolicyName, ...]] = get_args(PolicyName)
CAPPED: Final = "conservative-continuous"


class Policy(Protocol):
    """The queue in front of a model's engines, and the order in which its requests start.

    It has no clock: `now_s` and the times of requests come from one clock that never runs
    backwards.
    """

    @property
    def name(self) -> str:
        """Its name in settings, metrics and records."""

    @property
    def admission(self) -> Admission:
        """The rule for what fits next to the running sequences; its owner keeps it current."""

    @property
    def lockstep(self) -> bool:
        """Whether the engine must run its batches in lock step: start together, end together."""

    @property
    def order(self) -> Literal["policy", "arrival"]:
        """The order now: `arrival` where the policy falls back to first come, first served."""

    def arrive(self, request: QueuedRequest) -> None:
        """Queue a request. ValueError if one with this id is queued already."""

    def revise(self, requests: Sequence[QueuedRequest]) -> None:
        """Take queued or started requests as if they had arrived with these predictions.

        Each is the known request of its id with other quantiles; unknown ones are ignored. The
        order, batches and limits of what is queued become those of a queue in which the requests
        had these quantiles from the start. Started ones change what their tenants are charged.
        """

    def withdraw(self, request_id: str) -> bool:
        """Remove a request whose client has disconnected; False if it is not queued here."""

    def dispatch(self, now_s: float) -> Dispatch | None:
        """The next requests that fit; None if nothing is queued or fits.

        If nothing runs and the queue is not empty, something is dispatched. Call again until None.
        """

    def ended(self, request: QueuedRequest, generated: int, now_s: float) -> None:
        """A dispatched request left the engine with `generated` tokens."""

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn the serving time of a batch with this size, longest prompt and generation."""

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        """Remove and return the requests whose deadline can no longer be met."""

    def trust(self, trusted: bool) -> None:
        """Set whether predictions are reliable; initially they are taken to be."""

    def resize(self, pages: int, page_tokens: int, max_running: int | None = None) -> None:
        """Set the size of the KV pool and the most running sequences; queued requests stay.

        A lock-step batch is not limited by `max_running`.
        """

    def waiting(self, now_s: float) -> Iterator[WaitingBatch]:
        """The queued batches, in the order in which they would start now.

        No more is put in order than is read from it, before the queue changes.
        """

    @property
    def batches(self) -> int:
        """Number of queued batches."""

    def __len__(self) -> int:
        """Number of queued requests."""

    def check(self) -> None:
        """AssertionError if the queue is inconsistent; for tests."""


class LockstepPolicy(Policy, Protocol):
    """A policy for lock step, where a whole batch may run out of memory."""

    def halve(self, requests: Sequence[QueuedRequest]) -> None:
        """Queue what is left of a batch that ran out of memory again, as two closed halves.

        The halves are ordered like any batch, but no other request joins them; a single request is
        a batch of its own. They had started in time: the maximum queue time does not apply.
        """


def is_lockstep(policy: Policy) -> TypeGuard[LockstepPolicy]:
    """Whether a policy is for lock step."""
    return policy.lockstep


@runtime_checkable
class OrderedPolicy(Policy, Protocol):
    """A policy with a next request, which no other passes."""

    def head(self, now_s: float) -> QueuedRequest | None:
        """The request that is next; None if nothing is queued."""

    def start_head(self, now_s: float) -> Dispatch:
        """Start the head though admission has no room for it: it takes no memory of the device."""


@runtime_checkable
class SharingPolicy(Policy, Protocol):
    """A policy that divides the engine between tenants by share."""

    def over_share(self, running: Sequence[RunningSequence]) -> frozenset[str]:
        """Tenants whose running sequences hold more than their share: preempted first."""

    def make_room(
        self, now_s: float, running: Callable[[], Sequence[RunningSequence]], free_pages: int
    ) -> Dispatch | None:
        """A request of a tenant under its share, and what to preempt for it; None if there is none.

        Call it when `dispatch` returns None.
        """

    def holding_back(self, request_id: str) -> Level | None:
        """Whether a queued request waits for its app's or user's share; None also if not queued."""


class Options(Struct, frozen=True, kw_only=True):
    """Options of the policies.

    `admission` None takes each policy's own rule. `waste_share` is Magnus's limit Φ on wasted
    memory access, as a share of what one row of the batch reads; `waste_reads` is the paper's, in
    token reads, and replaces it. `merge_batches` lets Magnus's next batch take waiting ones along,
    see `merging`. `fixed_batch` is the size of batches of fixed size, and the most sequences that
    `conservative-continuous` runs at once. `max_delay_s` and `waiting_weight` are those of
    `OrderBounds`: `max_delay_s` 0 is near to first come, first served; (None, 0) is cheapest first.
    `make_room` lets `lmaas` preempt for a tenant under its share, `shares` is the smallest that it
    gives shares.
    """

    admission: AdmissionName | None = None
    waste_share: float = 0.85
    waste_reads: float | None = None
    merge_batches: bool = True
    max_delay_s: float | None = 60.0
    waiting_weight: float = 3.0
    fixed_batch: int = 7  # the paper's
    make_room: bool = True
    shares: ShareLevel = "user"


RANK_FUNCTIONS: Final[dict[PolicyName, RankFunction]] = {"hrrn": by_ratio, "sjf": by_length}
DEFAULT_ADMISSION: Final[dict[PolicyName, AdmissionName]] = {
    "s3": "reserved",
    CAPPED: "maximum",
    "magnus": "held",
    "magnus-fcfs": "held",
    "fixed-predicted": "held",
    "fixed": "held",
}


def build_admission(name: AdmissionName) -> Admission:
    """The admission rule of this name; the size of its pool is set later, by `resize`."""
    if name == "peak":
        return FuturePeak()
    return SumOfReservations(name)


def build_policy(name: PolicyName, options: Options, engines: int = 1) -> Policy:
    """An empty queue under the named policy in front of `engines`. KeyError for an unknown name.

    ValueError for several engines under a policy that runs batches in lock step or caps them.

    Its KV pool is empty until `resize`: until then requests start one at a time. `lmaas`: fair
    shares, deadlines, waiting against cost. `hrrn`, `sjf`, `fcfs`: the textbook orders. `s3`:
    reservations of the predicted length, packed. The rungs of Magnus's ladder, from below: `fixed`,
    lock-step batches of a fixed size; `fixed-predicted`, of similar predicted lengths;
    `magnus-fcfs`, of adaptive size; `magnus`, by response ratio. `conservative-continuous`: what
    they are compared with, joining at every step but few at once.
    """
    rule = options.admission or DEFAULT_ADMISSION.get(name, "peak")
    admission = build_admission(rule)
    if engines > 1:
        ledgers = [admission, *(build_admission(rule) for _ in range(engines - 1))]
        admission = RoutedAdmission(ledgers)
    policy = _build(name, options, admission)
    if engines > 1 and (policy.lockstep or name == CAPPED):
        raise ValueError(f"{name} is for one engine")
    return policy


def _build(name: PolicyName, options: Options, admission: Admission) -> Policy:
    if name in RANK_FUNCTIONS:
        return RankedPolicy(name, RANK_FUNCTIONS[name], admission=admission)
    return BUILDERS[name](options, admission)


def _lmaas(options: Options, admission: Admission) -> Policy:
    bounds = OrderBounds(options.max_delay_s, options.waiting_weight)
    return LmaasPolicy(
        "lmaas",
        admission=admission,
        bounds=bounds,
        makes_room=options.make_room,
        share_level=options.shares,
    )


def _magnus(name: PolicyName, rank: BatchRank, options: Options, admission: Admission) -> Policy:
    limit = WasteLimit(options.waste_share, options.waste_reads)
    return MagnusPolicy(name, rank, limit, admission=admission, merges=options.merge_batches)


BUILDERS: Final[dict[str, Callable[[Options, Admission], Policy]]] = {
    "lmaas": _lmaas,
    "fcfs": lambda _, admission: FcfsPolicy("fcfs", admission=admission),
    "s3": lambda _, admission: S3Policy(admission=admission),
    "magnus": lambda o, admission: _magnus("magnus", highest_ratio, o, admission),
    "magnus-fcfs": lambda o, admission: _magnus("magnus-fcfs", oldest_first, o, admission),
    "fixed": lambda o, admission: FixedPolicy("fixed", o.fixed_batch, admission=admission),
    "fixed-predicted": lambda o, admission: SimilarPolicy(
        "fixed-predicted", o.fixed_batch, admission=admission
    ),
    CAPPED: lambda o, admission: CappedPolicy(CAPPED, o.fixed_batch, admission=admission),
}
