"""The plan of a step for the GPU's attention."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.attention.interface import Context
from engine.attention.shared_pages import SharingGate
from engine.attention.triton_plan import NO_SLOT, StaticPlan, TritonPlan, plan_step
from engine.attention.triton_tiles import (
    MAX_PROGRAM_KEYS,
    MAX_SPLITS,
    LaunchShape,
    chunk_tile,
    padded_size,
    shared_tile,
    single_tile,
    split_singles,
    split_tiles,
)

CPU = torch.device("cpu")
LAUNCH_SHAPE = LaunchShape(tile_tokens=4, kv_heads=2, multiprocessors=10)
H100 = LaunchShape(tile_tokens=32, kv_heads=8, multiprocessors=132)


def plan(*contexts: Context, page_tokens: int = 4) -> TritonPlan:
    return plan_step(contexts, page_tokens, LAUNCH_SHAPE, CPU)


def test_each_token_gets_the_slot_of_its_page_and_offset() -> None:
    step = plan(Context(5, 1, [7, 2]), Context(2, 4, [3, 9, 8], 1))
    assert step.slots.tolist() == [2 * 4 + 1, 3 * 4 + 2, 3 * 4 + 3, 9 * 4, 9 * 4 + 1]
    assert step.chunks.tolist() == [[0, -1, 5, 1, 0], [2, 0, 2, 4, 1]]
    assert step.pages.tolist() == [7, 2, 3, 9, 8]
    assert (step.singles, step.max_context) == (1, 6)


def test_longer_chunks_are_tiled_with_the_longest_tiles_first() -> None:
    step = plan(Context(0, 1, [0]), Context(0, 9, [1, 2, 3]), Context(6, 3, [4, 5, 6]))
    assert step.tiles.tolist() == [[1, 8], [2, 0], [1, 4], [1, 0]]


def test_tensors_of_a_plan_are_aligned() -> None:
    step = plan(Context(0, 1, [3]), Context(0, 6, [1, 2]))
    for tensor in (step.slots, step.chunks, step.pages, step.tiles):
        assert (tensor.data_ptr() - step.slots.data_ptr()) % 16 == 0
        assert tensor.dtype == torch.int32
        assert tensor.is_contiguous()


@given(st.integers(1, 300), st.integers(1, 200_000))
def test_keys_are_split_until_the_gpu_is_full_and_no_further(tokens: int, max_context: int) -> None:
    splits = split_singles(H100, tokens, max_context)
    assert 1 <= splits <= MAX_SPLITS
    assert (splits - 1) * tokens < max(4 * 132 / 8, 4096)
    assert splits >= min(4 * 132 // (8 * tokens), max_context // 64, MAX_SPLITS)


def test_a_long_context_is_split_next_to_any_number_of_short_ones() -> None:
    assert split_singles(H100, 128, 8 * MAX_PROGRAM_KEYS) == 8
    assert split_singles(H100, 128, 100) == 1


def test_the_last_tokens_of_a_long_prompt_are_split_but_a_long_chunk_is_not() -> None:
    assert split_tiles(H100, 1, 30_000) > 30
    assert split_tiles(H100, 64, 30_000) == 1
    assert split_tiles(H100, 0, 0) == 1


@pytest.mark.parametrize("group", [1, 3, 7, 8, 71])
@pytest.mark.parametrize("dim", [8, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_hold_a_group_and_are_powers_of_two(group: int, dim: int, dtype: torch.dtype) -> None:
    for sized in (single_tile, shared_tile, chunk_tile):
        tile = sized(group, dim, dtype)
        assert tile.rows >= group
        for size in (tile.rows, tile.block, padded_size(dim)):
            assert size >= 16
            assert size & (size - 1) == 0


def shared_plan(*contexts: Context) -> TritonPlan:
    shape = LAUNCH_SHAPE._replace(shared_rows=2)
    return plan_step(contexts, 4, shape, CPU, SharingGate(tokens=8, rows=3))


def test_single_tokens_that_begin_alike_are_tiled() -> None:
    prefix = [3, 4]
    rows = [Context(start, 1, [*prefix, 10 + start, 20 + start]) for start in (9, 11, 10)]
    step = shared_plan(rows[0], Context(6, 1, [30, 31]), *rows[1:], Context(8, 3, [*prefix, 32]))
    assert step.shared is not None
    assert step.shared.members.tolist() == [0, 2, 3, 1]
    assert step.shared.tiles.tolist() == [[0, 2, 0, 8], [2, 1, 0, 8]]
    assert step.shared.first_own.tolist() == [8, 0, 8, 8]
    for tensor in step.shared[:3]:
        assert tensor.dtype == torch.int32
        assert (tensor.data_ptr() - step.slots.data_ptr()) % 16 == 0


def test_fewer_tokens_than_the_gate_are_not_tiled() -> None:
    assert shared_plan(*[Context(9, 1, [3, 4, 10 + n]) for n in range(2)]).shared is None
    assert shared_plan(*[Context(7, 1, [3, 10 + n]) for n in range(3)]).shared is None


def static_plan(rows: int = 4) -> StaticPlan:
    return StaticPlan(rows, 20, 4, LAUNCH_SHAPE, CPU)


@pytest.mark.parametrize(
    ("contexts", "taken"),
    [
        ([Context(19, 1, [1, 2, 3, 4, 5])] * 4, True),
        ([Context(0, 1, [1])] * 5, False),
        ([Context(20, 1, [1, 2, 3, 4, 5, 6])], False),
        ([Context(0, 1, [1]), Context(0, 2, [2])], False),
        ([Context(0, 1, list(range(21)))], False),
    ],
)
def test_a_static_plan_takes_single_tokens_that_fit(
    contexts: Sequence[Context], taken: bool
) -> None:
    assert static_plan().fits(plan(*contexts)) == taken


def test_a_static_plan_takes_no_shared_tiles() -> None:
    step = shared_plan(*[Context(9, 1, [3, 4, 10 + n]) for n in range(3)])
    assert step.shared is not None
    assert not static_plan().fits(step)
    assert static_plan().fits(step._replace(shared=None))


def test_a_static_plan_clears_the_rows_of_the_previous_step() -> None:
    kept = static_plan()
    views = kept.first_rows(4)
    kept.fill(plan(*(Context(start, 1, [9, 8]) for start in (1, 5, 6))))
    step = plan(Context(3, 1, [7]))
    kept.fill(step)
    assert views.slots.tolist() == [7 * 4 + 3, NO_SLOT, NO_SLOT, NO_SLOT]
    assert views.chunks[:1].equal(step.chunks)
    assert not views.chunks[1:].any()
    assert views.pages[0] == 7
