"""Decode steps as CUDA graphs: one launch in place of hundreds.

A graph is a recording of kernels on fixed addresses, hence of one number of rows. Those numbers
are buckets; a step takes the next larger one, and rows it does not need belong to nobody.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from engine.step.packing import Packed

SMALL_BUCKETS: Final = (1, 2, 4)
BUCKET_STRIDE: Final = 8  # rows between larger buckets: tensor cores take eight at a time

Forward = Callable[[Packed], Tensor]


class GraphPlan(Protocol):
    """A plan in tensors that stay where they are; what it holds changes from step to step."""

    def fits(self, plan: Any) -> bool:
        """Whether a step's plan is one of single tokens, and fits."""

    def first_rows(self, rows: int) -> Any:
        """The plan of the first rows, whatever is filled in later."""

    def fill(self, plan: Any) -> None:
        """Take over a step's plan; rows beyond it belong to nobody."""


class Recording(Protocol):
    """Work that can be done again."""

    def replay(self) -> None:
        """Do it, on what its tensors hold now."""


class CudaRecorder:
    """Records work as CUDA graphs, which share their memory: only one runs at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, work: Callable[[], None]) -> Recording:
        """A graph of the work; runs it once before, as what is compiled or loaded must be so."""
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        self._pool = self._pool or graph.pool()
        return graph


class DecodeGraphs:
    """A network's forward pass, replayed for steps of single tokens and run for all others.

    The forward pass must take the plans of `static_plan`. Everything is captured on construction,
    and holds for as long as the KV memory stays where it is. Not safe for threads.
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
        # The largest first: the smaller ones fit into its memory.
        self._recordings = {
            bucket: record(self._work(bucket)) for bucket in reversed(self._buckets)
        }

    def __call__(self, packed: Packed) -> Tensor:
        """Logits of the rows that a token is drawn from: (samples, vocabulary).

        Carried tokens must be in place. The next call may write over the logits.
        """
        rows = len(packed.token_ids)
        if rows > self._buckets[-1] or not self._static_plan.fits(packed.plan):
            return self._forward(packed)
        self._fill(packed)
        self._recordings[self._buckets[bisect_left(self._buckets, rows)]].replay()
        assert self._logits is not None, "made by the first recording"
        logits = self._logits[:rows]
        return logits if len(packed.sample_rows) == rows else logits[packed.sample_rows]

    def _fill(self, packed: Packed) -> None:
        """Put a step where the recordings read; rows beyond it keep token ids that exist."""
        rows = len(packed.token_ids)
        self._token_ids[:rows] = packed.token_ids
        self._positions[:rows] = packed.positions
        self._static_plan.fill(packed.plan)

    def _work(self, rows: int) -> Callable[[], None]:
        """The forward pass of the first rows, on what they hold when it runs."""
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
    """The numbers of rows that graphs are captured for: 1, 2, 4, 8, 16, 24 and so on to `rows`."""
    larger = range(BUCKET_STRIDE, rows, BUCKET_STRIDE)
    return sorted({bucket for bucket in (*SMALL_BUCKETS, *larger) if bucket < rows} | {rows})
