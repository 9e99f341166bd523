"""Input of the scheduler: queued requests, batches of them, and running sequences."""

from collections.abc import Callable, Iterator
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from gateway.quantiles import MEDIAN, P90

Quantiles: TypeAlias = tuple[float, float, float, float, float, float]
"""Generation length in tokens at τ = .1 .25 .5 .75 .9 .95, rising, within 1 … max_tokens."""


Lane: TypeAlias = Literal["interactive", "batch"]
"""Requests of the batch lane start when no interactive one waits, and yield to those that come."""


HostPlacement: TypeAlias = Literal["host-exact", "host-speculative"]
"""How a sequence with its keys and values in host memory attends: to all, or to what matters."""


GENERATED_TOKEN_WEIGHT: Final = 2.0  # in prompt tokens (VTC, arXiv 2401.00588, section 5)


def service(prompt_tokens: float, generation_tokens: float) -> float:
    """The service that a request is charged for, in prompt tokens."""
    return prompt_tokens + GENERATED_TOKEN_WEIGHT * generation_tokens


class SharedPrefix(Struct, frozen=True):
    """A prefix that several prompts of one tenant have in common, and its tokens: whole KV pages.

    The KV memory of these tokens is held once for all of them.
    """

    id: str
    tokens: int


class QueuedRequest(Struct, frozen=True):
    """A request that waits. All times are on the clock that dispatch is called with.

    `share` is its tenant's weight among tenants, `app_share` its app's among the tenant's apps;
    requests of an app without a `user` are of one user. `urgency` is its service tier's weight: a
    second of waiting counts `urgency` times, and so does a token charged to its tenant, `surcharge`
    times that for one beyond a soft limit. `deadline_s` is when the whole answer is due,
    `start_by_s` when the request must have started. `generated` tokens were written before its
    lock-step batch ran out of memory and it was queued again. `prefix` is the prefix of its group
    in a batch job, part of its prompt. `provisional` quantiles are about to be replaced by better
    ones: no deadline is refused by them. `blocks` are hashes of its prompt's leading blocks, see
    `routing.prefixes`; empty where nothing is routed. With `host`, its keys and values may be in
    host memory.
    """

    id: str
    tenant: str
    prompt_tokens: int
    quantiles: Quantiles
    max_tokens: int
    arrived_s: float
    share: float = 1.0
    urgency: float = 1.0
    deadline_s: float | None = None
    start_by_s: float | None = None
    generated: int = 0
    lane: Lane = "interactive"
    prefix: SharedPrefix | None = None
    provisional: bool = False
    surcharge: float = 1.0
    app: str = ""
    user: str = ""
    app_share: float = 1.0
    blocks: tuple[int, ...] = ()
    host: HostPlacement | None = None

    @property
    def median(self) -> float:
        """The predicted median G': used for wasted memory access and serving time."""
        return self.quantiles[MEDIAN]

    @property
    def charge_weight(self) -> float:
        """How many times a token is charged to its tenant's counter."""
        return self.part_weight / self.share

    @property
    def part_weight(self) -> float:
        """How many times a token is charged to its app and user, before their shares."""
        return self.urgency * self.surcharge

    @property
    def p90(self) -> float:
        """The predicted 0.9 quantile: used for reservations."""
        return self.quantiles[P90]

    def started(self) -> "RunningSequence":
        """The sequence it becomes once dispatched."""
        return RunningSequence(
            self.id,
            self.prompt_tokens,
            self.generated,
            self.quantiles,
            self.max_tokens,
            self.tenant,
            self.share,
            lane=self.lane,
            prefix=self.prefix,
        )


class RunningSequence(Struct, frozen=True):
    """A sequence in the engine: `generated` tokens so far, `quantiles` of its total length.

    `suspended`: it was preempted and has not resumed, so it holds no KV memory. `engine` is the
    number of the engine that it is on.
    """

    id: str
    prompt_tokens: int
    generated: int
    quantiles: Quantiles
    max_tokens: int
    tenant: str = ""
    share: float = 1.0
    suspended: bool = False
    lane: Lane = "interactive"
    prefix: SharedPrefix | None = None
    engine: int = 0

    @property
    def kv_tokens(self) -> int:
        """KV tokens that it holds while it runs."""
        return self.prompt_tokens + self.generated


class WaitingBatch(Struct, frozen=True):
    """A queued batch of `size` requests: its serving time S, its response ratio R now.

    `generation_tokens` is G(B), the longest predicted generation. `tenant` is that of all its
    requests; None if they are of several. `ordered` puts no more requests in order than are read
    from it, before the queue changes.
    """

    id: str
    size: int
    tenant: str | None
    generation_tokens: float
    serving_s: float
    ratio: float
    ordered: Callable[[], Iterator[QueuedRequest]]

    @property
    def requests(self) -> tuple[QueuedRequest, ...]:
        """All its requests in order."""
        return tuple(self.ordered())
