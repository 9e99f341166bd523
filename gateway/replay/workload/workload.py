"""A workload as columns: what a replay feeds to a policy and to its simulated engine."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.errors import InvalidRequest
from gateway.quantiles import LEVELS, Floats
from gateway.scheduling.requests import QueuedRequest

Singles: TypeAlias = npt.NDArray[np.float32]
Counts: TypeAlias = npt.NDArray[np.int32]
Indices: TypeAlias = npt.NDArray[np.int16]

NOBODY: Final = "default"  # tenant and app of requests that name none
MOST_NAMES: Final = 2**15


@dataclass(frozen=True, kw_only=True)
class Workload:
    """n requests in order of arrival, a column each, about 80 bytes a request.

    `generation_tokens` is the true length. `quantiles` (n, 6) at `LEVELS` are NaN where nothing was
    predicted. `tenant` and `app` count in `tenants` and `apps`. `deadline_s` and `start_by_s` are
    seconds from the arrival, NaN where there is none.
    """

    arrived_s: Floats
    prompt_tokens: Counts
    generation_tokens: Counts
    max_tokens: Counts
    quantiles: Singles
    tenant: Indices
    app: Indices
    deadline_s: Floats
    start_by_s: Floats
    share: Singles
    urgency: Singles
    tenants: list[str]
    apps: list[str]

    @classmethod
    def of(
        cls,
        arrived_s: npt.ArrayLike,
        prompt_tokens: npt.ArrayLike,
        generation_tokens: npt.ArrayLike,
        *,
        tenants: Sequence[str] = (NOBODY,),
        apps: Sequence[str] = (NOBODY,),
        **columns: npt.ArrayLike,
    ) -> Self:
        """Requests in any order, as columns or as one value for all; the earliest arrives at 0.

        Without `max_tokens`, each may take as many tokens as the longest answer of all.
        InvalidRequest for more tenants or apps than a column can tell apart.
        """
        if max(len(tenants), len(apps)) > MOST_NAMES:
            raise InvalidRequest(f"more than {MOST_NAMES:,} tenants or apps")
        arrived = np.asarray(arrived_s, np.float64)
        lengths = np.asarray(generation_tokens, np.int32)
        order = np.argsort(arrived, kind="stable")
        given: dict[str, npt.ArrayLike] = {
            "max_tokens": lengths.max(initial=1),
            "quantiles": np.nan,
            "tenant": 0,
            "app": 0,
            "deadline_s": np.nan,
            "start_by_s": np.nan,
            "share": 1,
            "urgency": 1,
            **columns,
            "prompt_tokens": prompt_tokens,
            "generation_tokens": lengths,
            "arrived_s": arrived - arrived.min() if len(arrived) else arrived,
        }
        made = {name: _column(name, values, order) for name, values in given.items()}
        return cls(tenants=list(tenants), apps=list(apps), **made)

    def __len__(self) -> int:
        return len(self.arrived_s)

    @property
    def predicted(self) -> bool:
        """Whether every request has a prediction."""
        return not np.isnan(self.quantiles).any()

    @property
    def rate_s(self) -> float:
        """Arrivals a second; infinite where all come at once."""
        span_s = float(self.arrived_s[-1] - self.arrived_s[0]) if len(self) else 0.0
        return (len(self) - 1) / span_s if span_s else float("inf")

    def waiting(self, place: int) -> QueuedRequest:
        """The request at `place` as the scheduler sees it; its id is its place."""
        arrived_s = float(self.arrived_s[place])
        return QueuedRequest(
            id=str(place),
            tenant=self.tenants[self.tenant[place]],
            prompt_tokens=int(self.prompt_tokens[place]),
            quantiles=tuple(self.quantiles[place].tolist()),
            max_tokens=int(self.max_tokens[place]),
            arrived_s=arrived_s,
            share=float(self.share[place]),
            urgency=float(self.urgency[place]),
            deadline_s=_later(arrived_s, float(self.deadline_s[place])),
            start_by_s=_later(arrived_s, float(self.start_by_s[place])),
        )

    def take(self, places: slice | npt.NDArray[Any]) -> Self:
        """The requests at these places; of an array, rising and each with its own arrival."""
        columns = {name: getattr(self, name)[places] for name in COLUMNS}
        return replace(self, **columns)

    def within(self, tokens: int) -> Self:
        """The requests whose prompt and answer fit in so many tokens, and may take no more."""
        fits = self.prompt_tokens + self.generation_tokens <= tokens
        kept = self if fits.all() else self.take(fits)
        return replace(kept, max_tokens=np.minimum(kept.max_tokens, tokens - kept.prompt_tokens))

    def arriving(self, arrived_s: Floats) -> Self:
        """The same requests at other times (n,), which rise."""
        return replace(self, arrived_s=arrived_s)

    def unhurried(self) -> Self:
        """The same requests, none with a deadline or a longest wait."""
        never = np.full(len(self), np.nan)
        return replace(self, deadline_s=never, start_by_s=never)

    def said(self, quantiles: Singles) -> Self:
        """The same requests with these quantiles (n, 6), within 1 … max_tokens of each."""
        most = self.max_tokens[:, None].astype(np.float32)
        return replace(self, quantiles=np.clip(quantiles, 1, most))

    def check(self) -> None:
        """AssertionError where columns contradict each other."""
        assert all(len(getattr(self, name)) == len(self) for name in COLUMNS)
        assert (np.diff(self.arrived_s) >= 0).all()
        assert (self.generation_tokens >= 1).all()
        assert (self.generation_tokens <= self.max_tokens).all()
        assert self.quantiles.shape == (len(self), len(LEVELS))


TYPES: Final[dict[str, Any]] = {
    "arrived_s": np.float64,
    "prompt_tokens": np.int32,
    "generation_tokens": np.int32,
    "max_tokens": np.int32,
    "quantiles": np.float32,
    "tenant": np.int16,
    "app": np.int16,
    "deadline_s": np.float64,
    "start_by_s": np.float64,
    "share": np.float32,
    "urgency": np.float32,
}
COLUMNS: Final = tuple(TYPES)
assert {*COLUMNS, "tenants", "apps"} == {field.name for field in fields(Workload)}


def _column(name: str, values: npt.ArrayLike, order: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """One column in order of arrival; a single value stands for every request."""
    shape = (len(order), len(LEVELS)) if name == "quantiles" else (len(order),)
    whole = np.broadcast_to(np.asarray(values, TYPES[name]), shape)
    return whole[order]


def _later(arrived_s: float, after_s: float) -> float | None:
    return None if np.isnan(after_s) else arrived_s + after_s
