"""Decode steps as CUDA graphs: one launch in place of hundreds.

A graph replays kernels on fixed addresses, hence for a fixed number of rows. Graphs are captured
for a set of numbers, the buckets; a step takes the next larger bucket and leaves rows unused.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from engine.networks.interface import Packed

SMALL_BUCKETS: Final = (1, 2, 4)
BUCKET_STRIDE: Final = 8  # rows between larger buckets: tensor cores process eight at a time

Forward = Callable[[Packed], Tensor]


class GraphPlan(Protocol):
    """A plan in tensors with fixed addresses, refilled at each step."""

    def fits(self, plan: Any) -> bool:
        """Whether a step's plan consists of single tokens only, and fits."""

    def first_rows(self, rows: int) -> Any:
        """The plan of the first rows; a view of what is filled in later."""

    def fill(self, plan: Any) -> None:
        """Copy a step's plan in; rows beyond it are unused."""


class Recording(Protocol):
    """Captured work that can be replayed."""

    def replay(self) -> None:
        """Run it on the current content of its tensors."""


class CudaRecorder:
    """Captures CUDA graphs that share their memory, as only one runs at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, work: Callable[[], None]) -> Recording:
        """Capture the work, after a first run that compiles and loads its kernels."""
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        self._pool = self._pool or graph.pool()
        return graph


class DecodeGraphs:
    """A network's forward pass, replayed for steps of single tokens and run for all others.

    The forward pass must accept the plans of `static_plan`. All graphs are captured on construction
    and are valid until the KV memory is reallocated. Not thread-safe.
    """

    def __init__(
        self,
        forward: Forward,
        static_plan: GraphPlan,
        rows: int,
        device: torch.device,
        record: Callable[[Callable[[], None]], Recording] | None = None,
    ) -> None:
        self._forward = forward
        self._static_plan = static_plan
        self._token_ids = torch.zeros(rows, dtype=torch.long, device=device)
        self._positions = torch.zeros(rows, dtype=torch.long, device=device)
        self._row_indices = torch.arange(rows, device=device)
        self._logits: Tensor | None = None  # (rows, vocabulary)
        self._buckets = buckets(rows)
        record = record or CudaRecorder()
        # Largest first, so that the smaller ones reuse its memory.
        self._recordings = {
            bucket: record(self._work(bucket)) for bucket in reversed(self._buckets)
        }

    def __call__(self, packed: Packed) -> Tensor:
        """Logits of the rows to sample from: (samples, vocabulary).

        Carried tokens must be filled in. The next call may overwrite the logits.
        """
        rows = len(packed.token_ids)
        if rows > self._buckets[-1] or not self._static_plan.fits(packed.plan):
            return self._forward(packed)
        self._fill(packed)
        self._recordings[self._buckets[bisect_left(self._buckets, rows)]].replay()
        assert self._logits is not None, "set by the first capture"
        logits = self._logits[:rows]
        return logits if len(packed.sample_rows) == rows else logits[packed.sample_rows]

    def _fill(self, packed: Packed) -> None:
        """Copy a step into the static tensors; rows beyond it keep earlier, valid token ids."""
        rows = len(packed.token_ids)
        self._token_ids[:rows] = packed.token_ids
        self._positions[:rows] = packed.positions
        self._static_plan.fill(packed.plan)

    def _work(self, rows: int) -> Callable[[], None]:
        """The forward pass of the first rows of the static tensors."""
        packed = Packed(
            token_ids=self._token_ids[:rows],
            positions=self._positions[:rows],
            sample_rows=self._row_indices[:rows],
            plan=self._static_plan.first_rows(rows),
            carry=None,
        )

        def work() -> None:
            logits = self._forward(packed)
            if self._logits is None:
                self._logits = torch.empty_like(logits)
            self._logits[:rows].copy_(logits)

        return work


def buckets(rows: int) -> list[int]:
    """The numbers of rows to capture graphs for: 1, 2, 4, 8, 16, 24, … up to `rows`."""
    larger = range(BUCKET_STRIDE, rows, BUCKET_STRIDE)
    return sorted({bucket for bucket in (*SMALL_BUCKETS, *larger) if bucket < rows} | {rows})
