"""The time of runs is the sum over their steps; engines are read from files."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest, NotFound
from gateway.replay.cost.model import (
    LEAST_ROWS,
    EngineModel,
    EngineShape,
    GpuProfile,
    LinearCost,
    StepCost,
    read_engine,
)

LINEAR = LinearCost(step_s=5e-3, prompt_token_s=1e-5, sequence_s=2e-4, kv_token_s=3e-8)
CARD = GpuProfile(
    name="small",
    weight_bytes=1e9,
    kv_bytes_per_token=1e6,
    bandwidth_bytes_s=1e11,
    flops_s=1e13,
    parameters=5e8,
    overhead_s=1e-4,
    memory_bytes=2e9,
)
SHAPE = EngineShape(pages=10, page_tokens=16, context_tokens=100)


@given(
    st.sampled_from([LINEAR, CARD]),
    st.integers(0, 400),
    st.integers(0, 10_000),
    st.integers(0, 60),
)
def test_run_takes_what_its_steps_take(
    cost: StepCost, sequences: int, kv_tokens: int, steps: int
) -> None:
    each = [cost.seconds(0, sequences, kv_tokens + step * sequences) for step in range(steps)]
    assert cost.run_seconds(sequences, kv_tokens, steps) == pytest.approx(sum(each), rel=1e-12)


def test_card_is_compute_bound_first_and_memory_bound_later() -> None:
    computing_s, reading_s = CARD.seconds(0, 200, 0), CARD.seconds(0, 200, 10_000)
    assert computing_s == pytest.approx(1e-4 + 2 * 5e8 * 200 / 1e13)
    assert reading_s == pytest.approx(1e-4 + (1e9 + 1e10) / 1e11)
    both_s = CARD.run_seconds(200, 900, 20)  # only the first of these steps are compute-bound
    assert 20 * CARD.seconds(0, 200, 900) < both_s < 20 * CARD.seconds(0, 200, 900 + 20 * 200)


def test_prompts_of_a_card_cost_compute_only() -> None:
    assert CARD.seconds(512, 0, 0) == pytest.approx(1e-4 + max(1e9 / 1e11, 2 * 5e8 * 512 / 1e13))


def test_longest_sequence_is_bounded_by_context_and_by_pages() -> None:
    assert SHAPE.max_sequence_tokens == 100
    assert msgspec.structs.replace(SHAPE, pages=5).max_sequence_tokens == 80


def test_no_more_sequences_run_than_a_step_has_tokens() -> None:
    assert SHAPE.max_running_sequences == 512
    assert msgspec.structs.replace(SHAPE, max_sequences=8).max_running_sequences == 8
    larger = msgspec.structs.replace(SHAPE, max_sequences=900)
    assert (larger.max_running_sequences, larger.max_interactive_sequences) == (900, 512)


@pytest.mark.parametrize("cost", [LINEAR, msgspec.structs.replace(CARD, overhead_s=0.1)])
def test_decoding_is_at_full_speed_with_the_rows_that_the_cost_names(cost: StepCost) -> None:
    rows = int(cost.full_rows)
    fastest = 10**9 / cost.seconds(0, 10**9, 0)
    assert rows / cost.seconds(0, rows, 0) == pytest.approx(0.9 * fastest, rel=0.01)


def test_rows_up_to_the_balance_of_a_card_are_free() -> None:
    card = msgspec.structs.replace(CARD, overhead_s=0.0)
    assert card.full_rows == pytest.approx(1e9 / 1e11 / (2 * 5e8 / 1e13))
    assert card.seconds(0, int(card.full_rows), 0) == pytest.approx(card.seconds(0, 1, 0))


@pytest.mark.parametrize(("step_s", "most"), [(0.0, LEAST_ROWS), (1.0, 90), (100.0, 512)])
def test_as_many_background_sequences_run_as_decode_at_full_speed(step_s: float, most: int) -> None:
    cost = LinearCost(step_s=step_s, prompt_token_s=1.0, sequence_s=0.1, kv_token_s=1.0)
    assert EngineModel(cost=cost, shape=SHAPE).most_background == most


@pytest.mark.parametrize("cost", [LINEAR, CARD])
def test_engine_is_read_as_it_was_written(cost: LinearCost | GpuProfile, tmp_path: Path) -> None:
    model = EngineModel(cost=cost, shape=SHAPE)
    (tmp_path / "engine.json").write_bytes(msgspec.json.encode(model))
    assert read_engine(tmp_path / "engine.json") == model


def test_file_without_an_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No such file"):
        read_engine(tmp_path / "engine.json")
    for content in (b'{"cost": {"kind": "linear", "step_s": -1}}', b'{"cost": {"kind": "\xff"}}'):
        (tmp_path / "engine.json").write_bytes(content)
        with pytest.raises(InvalidRequest, match="describes no engine"):
            read_engine(tmp_path / "engine.json")


def test_scaled_cost_is_proportional() -> None:
    cost = LinearCost(step_s=2e-3, prompt_token_s=5e-5, sequence_s=8e-5, kv_token_s=3e-7)
    shape = 40, 7, 900.0, 120.0
    assert cost.scaled(1.5).seconds(*shape) == pytest.approx(1.5 * cost.seconds(*shape))
    assert cost.scaled(1.5).run_seconds(7, 900, 31) == pytest.approx(
        1.5 * cost.run_seconds(7, 900, 31)
    )


def test_delay_of_submissions_is_order_s_in_a_calibration_file(tmp_path: Path) -> None:
    shape = msgspec.structs.replace(SHAPE, submit_delay_s=0.25)
    file = tmp_path / "engine.json"
    file.write_bytes(msgspec.json.encode(EngineModel(cost=LINEAR, shape=shape)))
    assert b'"order_s":0.25' in file.read_bytes()
    assert read_engine(file).shape.submit_delay_s == 0.25
