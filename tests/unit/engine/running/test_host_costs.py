"""The cost of sequences in host memory, measured at the start."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import HostCost
from engine.running.host_costs import ROWS, host_cost, measure_host_costs
from engine.running.runner import Runner

times = st.floats(1e-6, 1.0)


@given(times, times, times, st.floats(0, 1e-3), st.integers(1, 100), st.integers(1, 1000))
def test_the_cost_is_that_of_the_three_steps(
    alone_s: float, step_s: float, row_s: float, token_s: float, few: int, more: int
) -> None:
    def seconds(rows: int, tokens: int) -> float:
        return alone_s + step_s + rows * (row_s + token_s * tokens)

    many = few + more
    found = host_cost(alone_s, (few, seconds(1, few)), (many, seconds(1, many)), seconds(ROWS, few))
    for rows, tokens in ((1, few), (1, many), (ROWS, few)):
        added_s = found.step_s + rows * (found.row_s + found.token_s * tokens)
        assert added_s == pytest.approx(seconds(rows, tokens) - alone_s, rel=1e-6, abs=1e-9)


def test_noise_makes_no_cost_negative() -> None:
    assert host_cost(3.0, (10, 2.0), (80, 1.0), 1.0) == HostCost(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("family", "served"),
    [("llama", {"host-exact", "host-speculative"}), ("mistral", {"host-exact"})],
)
def test_every_placement_that_is_served_is_measured(
    family: str, served: set[str], a_runner: Callable[..., Runner]
) -> None:
    runner = a_runner(family, pages=4, offload_pages=40)
    offloading = runner._offloading
    assert offloading is not None
    found = measure_host_costs(runner, offloading, 64)
    assert found.keys() == served
    for cost in found.values():
        assert cost.step_s + cost.row_s + cost.token_s * 64 > 0, (
            "it takes longer than next to no tokens"
        )
    runner.close()


def test_too_little_memory_is_not_measured(a_runner: Callable[..., Runner]) -> None:
    runner = a_runner("llama", pages=4, offload_pages=2)
    assert runner._offloading is not None
    assert measure_host_costs(runner, runner._offloading, 64) == {}
    runner.close()
