"""Decode steps on recordings that behave like CUDA graphs, without CUDA."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from engine.attention.interface import Context
from engine.attention.triton_plan import StaticPlan, plan_step
from engine.attention.triton_tiles import LaunchShape
from engine.networks.interface import Packed
from engine.running.graphs import DecodeGraphs, buckets

CPU = torch.device("cpu")
LAUNCH_SHAPE = LaunchShape(tile_tokens=4, kv_heads=1, multiprocessors=1)


class EchoNetwork:
    """A network whose logits echo its inputs; records the rows of its steps."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, packed: Packed) -> Tensor:
        self.steps.append(len(packed.token_ids))
        singles = packed.plan.chunks[: packed.plan.singles, 2]
        starts = torch.zeros(len(packed.token_ids)).index_copy_(
            0, torch.arange(len(singles)), singles.float()
        )
        return torch.stack([packed.token_ids, packed.positions, starts], 1)[packed.sample_rows]


class GraphBench:
    def __init__(self, rows: int = 20) -> None:
        self.network = EchoNetwork()
        self.replayed: list[int] = []
        static_plan = StaticPlan(rows, 100, 4, LAUNCH_SHAPE, CPU)
        self.graphs = DecodeGraphs(self.network, static_plan, rows, CPU, record=self.record)
        self.captured, self.network.steps = self.network.steps, []

    def record(self, work: Callable[[], None]) -> SimpleNamespace:
        work()
        rows = self.network.steps[-1]

        def replay() -> None:
            self.replayed.append(rows)
            work()

        return SimpleNamespace(replay=replay)

    def check(
        self, *starts: int, sample_rows: Sequence[int] | None = None, longer: int = 0
    ) -> None:
        """Check a step of single tokens, and optionally a longer chunk, against the network."""
        contexts = [Context(start, 1, [1] * (start // 4 + 1)) for start in starts]
        contexts += [Context(0, longer, [2] * 25)] * (longer > 0)
        tokens = len(starts) + longer
        packed = Packed(
            token_ids=torch.arange(tokens) + 50,
            positions=torch.arange(tokens) * 2,
            sample_rows=torch.tensor(range(tokens) if sample_rows is None else sample_rows),
            plan=plan_step(contexts, 4, LAUNCH_SHAPE, CPU),
            carry=None,
        )
        torch.testing.assert_close(self.graphs(packed), EchoNetwork()(packed))


def test_buckets_end_with_the_most_rows() -> None:
    assert buckets(1) == [1]
    assert buckets(3) == [1, 2, 3]
    assert buckets(8) == [1, 2, 4, 8]
    assert buckets(27) == [1, 2, 4, 8, 16, 24, 27]


def test_the_largest_bucket_is_captured_first() -> None:
    assert GraphBench().captured == [20, 16, 8, 4, 2, 1]


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (3, 4), (4, 4), (9, 16), (20, 20)])
def test_a_step_takes_the_next_larger_bucket(rows: int, bucket: int) -> None:
    bench = GraphBench()
    bench.check(*range(rows))
    assert bench.replayed == [bucket]


def test_steps_of_different_sizes_alternate() -> None:
    bench = GraphBench()
    for rows in (20, 3, 1, 7, 2, 16):
        bench.check(*range(rows))
    assert bench.replayed == [20, 4, 1, 8, 2, 16]


def test_rows_without_a_next_token_give_no_logits() -> None:
    bench = GraphBench()
    bench.check(4, 8, 15, sample_rows=[0, 2])
    assert bench.replayed == [4]


@pytest.mark.parametrize(("starts", "longer"), [(range(21), 0), ((1, 2), 3), ((), 2), ((100,), 0)])
def test_steps_that_fit_no_bucket_are_run(starts: Sequence[int], longer: int) -> None:
    bench = GraphBench()
    bench.check(*starts, longer=longer)
    assert bench.replayed == []
