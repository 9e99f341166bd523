"""The scheduling policies by name, behind one interface."""

from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from msgspec import Struct

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import Admission, AdmissionName
from gateway.scheduling.admission.reservation import SumOfReservations
from gateway.scheduling.admission.safety_margin import TARGET, first_z
from gateway.scheduling.baselines.base import PlainPolicy
from gateway.scheduling.baselines.fixed import FixedPolicy
from gateway.scheduling.baselines.ranked import Rank, RankedPolicy, by_length, by_ratio
from gateway.scheduling.baselines.s3 import S3Policy
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.lmaas.policy import LmaasPolicy
from gateway.scheduling.lmaas.tenant_queue import Bounds
from gateway.scheduling.magnus.policy import MagnusPolicy
from gateway.scheduling.requests import QueuedRequest, WaitingBatch

__all__ = ["NAMES", "Dispatch", "Options", "Policy", "PolicyName", "build_policy"]

PolicyName: TypeAlias = Literal["lmaas", "hrrn", "sjf", "fcfs", "magnus", "s3", "fixed"]
NAMES: Final[tuple[PolicyName, ...]] = get_args(PolicyName)


class Policy(Protocol):
    """The queue before one engine, and the order in which it empties.

    No clock of its own: `now_s` and the times of requests come from one clock that never runs
    backwards.
    """

    @property
    def name(self) -> str:
        """What it is called in settings, metrics and records."""

    @property
    def admission(self) -> Admission:
        """What decides what fits beside what runs; to be kept up to date between dispatches."""

    @property
    def lockstep(self) -> bool:
        """Whether the engine has to run its batches in lock step."""

    @property
    def order(self) -> Literal["policy", "arrival"]:
        """What it goes by now: `arrival` where it falls back on first come, first served."""

    def arrive(self, request: QueuedRequest) -> None:
        """Let a request wait. ValueError if one with this id waits already."""

    def withdraw(self, request_id: str) -> bool:
        """Forget a waiting request, whose client has gone; False if it does not wait here."""

    def dispatch(self, now_s: float) -> Dispatch | None:
        """What goes next, as much of it as fits; None if nothing waits or fits.

        With nothing running, something is always dispatched. Call again until None.
        """

    def ended(self, request: QueuedRequest, generated: int, now_s: float) -> None:
        """A dispatched request left the engine, with so many tokens generated."""

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn how long a batch of this size, longest prompt and longest generation took."""

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        """Withdraws the requests whose deadline cannot be met any more."""

    def trust(self, trusted: bool) -> None:
        """Whether predictions hold; at first they do."""

    def resize(self, pages: int, page_tokens: int) -> None:
        """Count on a KV pool of this size from now on; what waits stays."""

    def waiting(self, now_s: float) -> Sequence[WaitingBatch]:
        """The batches that wait, in the order in which they would go now."""

    def __len__(self) -> int:
        """Requests waiting."""

    def check(self) -> None:
        """AssertionError where the queue contradicts itself; for tests."""


@runtime_checkable
class LockstepPolicy(Policy, Protocol):
    """A policy whose batches may run out of memory as a whole."""

    def halve(self, requests: Sequence[QueuedRequest]) -> None:
        """A batch of two or more ran out of memory: its halves wait again."""


class Options(Struct, frozen=True, kw_only=True):
    """What the policies can be told.

    `admission` None takes each policy's own rule. `preempted_share` is where z of `FuturePeak`
    settles. `waste_limit` is Φ in token reads. `max_delay_s` and `waiting_weight` are those of
    `Bounds`: no delay is near to first come, first served, (None, 0) is cheapest first.
    """

    admission: AdmissionName | None = None
    preempted_share: float = TARGET
    waste_limit: float = 50_000.0
    max_delay_s: float | None = 60.0
    waiting_weight: float = 3.0
    fixed_batch: int = 8


RANKS: Final[dict[PolicyName, Rank]] = {"hrrn": by_ratio, "sjf": by_length}
OWN_ADMISSION: Final[dict[PolicyName, AdmissionName]] = {
    "magnus": "held",
    "s3": "reserved",
    "fixed": "maximum",
}


def build_admission(name: AdmissionName, options: Options) -> Admission:
    """The rule of this name, for a pool that it is yet to be told of."""
    if name == "peak":
        return FuturePeak(first_z(options.preempted_share), options.preempted_share)
    return SumOfReservations(name)


def build_policy(name: PolicyName, options: Options) -> Policy:
    """An empty queue under the named policy.

    It counts on no KV memory until `resize` tells of some: until then requests go one by one.
    `lmaas`: shares, bounds, response ratio. `hrrn`, `sjf`, `fcfs`: the plain orders. `magnus`:
    batches of least waste for an engine in lock step. `s3`: reservations of the predicted length,
    packed. `fixed`: so many at a time. KeyError for an unknown name.
    """
    rule = options.admission or OWN_ADMISSION.get(name, "peak")
    admission = build_admission(rule, options)
    if name in RANKS:
        return RankedPolicy(name, RANKS[name], admission=admission)
    return BUILDERS[name](options, admission)


def _lmaas(options: Options, admission: Admission) -> Policy:
    bounds = Bounds(options.max_delay_s, options.waiting_weight)
    return LmaasPolicy("lmaas", admission=admission, bounds=bounds)


BUILDERS: Final[dict[str, Callable[[Options, Admission], Policy]]] = {
    "lmaas": _lmaas,
    "fcfs": lambda _, admission: PlainPolicy("fcfs", admission=admission),
    "magnus": lambda o, admission: MagnusPolicy(o.waste_limit, admission=admission),
    "s3": lambda _, admission: S3Policy(admission=admission),
    "fixed": lambda o, admission: FixedPolicy(o.fixed_batch, admission=admission),
}
