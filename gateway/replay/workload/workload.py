"""A workload as columns: the requests of a replay."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.errors import InvalidRequest
from gateway.quantiles import LEVELS, Bools, Floats
from gateway.scheduling.requests import QueuedRequest, SharedPrefix
from gateway.scheduling.routing.prefixes import BLOCK_TOKENS

Float32s: TypeAlias = npt.NDArray[np.float32]
Int32s: TypeAlias = npt.NDArray[np.int32]
Int16s: TypeAlias = npt.NDArray[np.int16]

DEFAULT_NAME: Final = "default"  # of tenant and app, if a request has none
MAX_NAMES: Final = 2**15
NO_PREFIX: Final = -1
NO_USER: Final = -1


@dataclass(frozen=True, kw_only=True)
class Workload:
    """n requests in order of arrival, as columns (n,) of about 85 bytes a request.

    `generation_tokens` is the true length. `quantiles` (n, 6) at `LEVELS` is NaN without a
    prediction. `tenant` and `app` are indices into `tenants` and `apps`; `user` numbers the end
    users of an app, -1 for none. `share` and `app_share` are the weights of its tenant and app.
    `deadline_s` and `start_by_s` are seconds from the arrival, NaN for none. `batch` marks the
    lines of batch jobs; those that arrive together are in the order in which they are to start.
    `prefix` is an index into `prefixes`, -1 for a prompt that shares nothing; the scheduler knows
    those of lines.
    """

    arrived_s: Floats
    prompt_tokens: Int32s
    generation_tokens: Int32s
    max_tokens: Int32s
    quantiles: Float32s
    tenant: Int16s
    app: Int16s
    user: Int32s
    deadline_s: Floats
    start_by_s: Floats
    share: Float32s
    app_share: Float32s
    urgency: Float32s
    batch: Bools
    prefix: Int32s
    tenants: list[str]
    apps: list[str]
    prefixes: list[SharedPrefix]

    @classmethod
    def of(
        cls,
        arrived_s: npt.ArrayLike,
        prompt_tokens: npt.ArrayLike,
        generation_tokens: npt.ArrayLike,
        *,
        tenants: Sequence[str] = (DEFAULT_NAME,),
        apps: Sequence[str] = (DEFAULT_NAME,),
        prefixes: Sequence[SharedPrefix] = (),
        **columns: npt.ArrayLike,
    ) -> Self:
        """Requests in any order, each column an array or one value for all; the first arrives at 0.

        Without `max_tokens`, it is the longest answer, for every request. InvalidRequest for more
        than `MAX_NAMES` tenants or apps.
        """
        if max(len(tenants), len(apps)) > MAX_NAMES:
            raise InvalidRequest(f"more than {MAX_NAMES:,} tenants or apps")
        arrived = np.asarray(arrived_s, np.float64)
        lengths = np.asarray(generation_tokens, np.int32)
        order = np.argsort(arrived, kind="stable")
        given: dict[str, npt.ArrayLike] = {
            "max_tokens": lengths.max(initial=1),
            "quantiles": np.nan,
            "tenant": 0,
            "app": 0,
            "user": NO_USER,
            "deadline_s": np.nan,
            "start_by_s": np.nan,
            "share": 1,
            "app_share": 1,
            "urgency": 1,
            "batch": False,
            "prefix": NO_PREFIX,
            **columns,
            "prompt_tokens": prompt_tokens,
            "generation_tokens": lengths,
            "arrived_s": arrived - arrived.min() if len(arrived) else arrived,
        }
        made = {name: _column(name, values, order) for name, values in given.items()}
        return cls(tenants=list(tenants), apps=list(apps), prefixes=list(prefixes), **made)

    def __len__(self) -> int:
        return len(self.arrived_s)

    @property
    def has_predictions(self) -> bool:
        """Whether every request has a prediction."""
        return not np.isnan(self.quantiles).any()

    @property
    def rate_s(self) -> float:
        """Arrivals a second; infinite if all come at once."""
        span_s = float(self.arrived_s[-1] - self.arrived_s[0]) if len(self) else 0.0
        return (len(self) - 1) / span_s if span_s else float("inf")

    @property
    def plain(self) -> bool:
        """Whether no request is a line of a job, or shares a prefix."""
        return not self.batch.any() and bool((self.prefix == NO_PREFIX).all())

    def prefix_of(self, index: int) -> SharedPrefix | None:
        """The prefix that the request at `index` shares, known to the scheduler or not."""
        number = int(self.prefix[index])
        return None if number == NO_PREFIX else self.prefixes[number]

    def blocks(self, index: int) -> tuple[int, ...]:
        """The leading blocks of a prompt that others may share: those of its prefix."""
        prefix = self.prefix_of(index)
        if prefix is None:
            return ()
        number = int(self.prefix[index])
        return tuple(hash((number, block)) for block in range(prefix.tokens // BLOCK_TOKENS))

    def request(self, index: int) -> QueuedRequest:
        """The request at `index` for the scheduler; its id is the index."""
        arrived_s = float(self.arrived_s[index])
        batch, user = bool(self.batch[index]), int(self.user[index])
        return QueuedRequest(
            id=str(index),
            tenant=self.tenants[self.tenant[index]],
            prompt_tokens=int(self.prompt_tokens[index]),
            quantiles=tuple(self.quantiles[index].tolist()),
            max_tokens=int(self.max_tokens[index]),
            arrived_s=arrived_s,
            share=float(self.share[index]),
            urgency=float(self.urgency[index]),
            deadline_s=_absolute_s(arrived_s, float(self.deadline_s[index])),
            start_by_s=_absolute_s(arrived_s, float(self.start_by_s[index])),
            lane="batch" if batch else "interactive",
            prefix=self.prefix_of(index) if batch else None,
            app=self.apps[self.app[index]],
            user="" if user == NO_USER else str(user),
            app_share=float(self.app_share[index]),
        )

    def take(self, indices: slice | npt.NDArray[Any]) -> Self:
        """The requests at these indices, or where a mask is true.

        Unless the indices increase, the caller sets new arrival times.
        """
        columns = {name: getattr(self, name)[indices] for name in COLUMNS}
        return replace(self, **columns)

    def within(self, tokens: int) -> Self:
        """The requests whose prompt and answer fit `tokens`; max_tokens is cut to fit too."""
        fits = self.prompt_tokens + self.generation_tokens <= tokens
        kept = self if fits.all() else self.take(fits)
        return replace(kept, max_tokens=np.minimum(kept.max_tokens, tokens - kept.prompt_tokens))

    def with_arrivals(self, arrived_s: Floats) -> Self:
        """The same requests with other arrival times (n,), increasing."""
        return replace(self, arrived_s=arrived_s)

    def joined(self, other: "Workload") -> Self:
        """These requests and others, by arrival; at equal times these come first."""
        tenants, tenant = _renumbered(self.tenants, other.tenants, other.tenant)
        apps, app = _renumbered(self.apps, other.apps, other.app)
        shares = other.prefix != NO_PREFIX
        prefix = np.where(shares, other.prefix + len(self.prefixes), NO_PREFIX)
        moved: dict[str, npt.NDArray[Any]] = {"tenant": tenant, "app": app, "prefix": prefix}
        order = np.argsort(np.concatenate((self.arrived_s, other.arrived_s)), kind="stable")
        columns: dict[str, Any] = {}
        for name, kind in COLUMN_TYPES.items():
            others = moved.get(name, getattr(other, name))
            columns[name] = np.concatenate((getattr(self, name), others)).astype(kind)[order]
        prefixes = [*self.prefixes, *other.prefixes]
        return replace(self, tenants=tenants, apps=apps, prefixes=prefixes, **columns)

    def without_deadlines(self) -> Self:
        """The same requests without deadlines and latest start times."""
        never = np.full(len(self), np.nan)
        return replace(self, deadline_s=never, start_by_s=never)

    def with_quantiles(self, quantiles: Float32s) -> Self:
        """The same requests with quantiles (n, 6), clipped to 1 … max_tokens of each."""
        max_tokens = self.max_tokens[:, None].astype(np.float32)
        return replace(self, quantiles=np.clip(quantiles, 1, max_tokens))

    def check(self) -> None:
        """AssertionError if columns contradict each other."""
        assert all(len(getattr(self, name)) == len(self) for name in COLUMNS)
        assert (np.diff(self.arrived_s) >= 0).all()
        assert (self.generation_tokens >= 1).all()
        assert (self.generation_tokens <= self.max_tokens).all()
        assert self.quantiles.shape == (len(self), len(LEVELS))
        assert (self.prefix < len(self.prefixes)).all()


COLUMN_TYPES: Final[dict[str, Any]] = {
    "arrived_s": np.float64,
    "prompt_tokens": np.int32,
    "generation_tokens": np.int32,
    "max_tokens": np.int32,
    "quantiles": np.float32,
    "tenant": np.int16,
    "app": np.int16,
    "user": np.int32,
    "deadline_s": np.float64,
    "start_by_s": np.float64,
    "share": np.float32,
    "app_share": np.float32,
    "urgency": np.float32,
    "batch": np.bool_,
    "prefix": np.int32,
}
COLUMNS: Final = tuple(COLUMN_TYPES)
assert {*COLUMNS, "tenants", "apps", "prefixes"} == {field.name for field in fields(Workload)}


def _column(name: str, values: npt.ArrayLike, order: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """A column in order of arrival; a single value is repeated for every request."""
    shape = (len(order), len(LEVELS)) if name == "quantiles" else (len(order),)
    whole = np.broadcast_to(np.asarray(values, COLUMN_TYPES[name]), shape)
    return whole[order]


def _renumbered(
    names: list[str], others: list[str], column: Int16s
) -> tuple[list[str], npt.NDArray[np.intp]]:
    """All names once, and the indices among them of a column of the others' names."""
    together = list(dict.fromkeys([*names, *others]))
    places = np.array([together.index(name) for name in others], np.intp)
    return together, places[column]


def _absolute_s(arrived_s: float, after_s: float) -> float | None:
    return None if np.isnan(after_s) else arrived_s + after_s
