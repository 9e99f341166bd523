"""Attention to a part of a text: chunks against single steps, and the rules of the selectors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.i1.forced import Host, feed
from benchmarks.i1.forced import read_prompt as read_stepwise
from benchmarks.i1.run import PAGE_TOKENS
from benchmarks.i2.forced import SelectedAttention, forced_logits, read_prompt
from benchmarks.i2.infinigen import InfiniGen, skew_of
from benchmarks.i2.memory import TextMemory
from benchmarks.i2.methods import budget_of
from benchmarks.i2.selectors import (
    ChunkRows,
    CodedKeys,
    Everything,
    HeavyHitters,
    Oracle,
    Pages,
    Random,
    Recent,
    highest,
)
from engine.checkpoints.catalogue import DEMO_FOLDER
from engine.offload.attention import OffloadAttention
from engine.offload.layout import OffloadLayout, fetched_tokens
from engine.offload.store import OffloadStore
from engine.running.loaded_model import LoadedModel
from engine.running.model import load_model
from engine.running.runner import choose_attention

PROMPT, FED = 150, 150  # two chunks are fed
KV_HEADS, GROUP, DIM = 2, 3, 8


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(str(DEMO_FOLDER), "cpu", "float32")


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return torch.randint(400, (PROMPT + FED,), generator=torch.Generator().manual_seed(3)).tolist()


def test_chunks_give_the_logits_of_the_product_step_by_step(
    model: LoadedModel, ids: list[int]
) -> None:
    pages = list(range(-(-len(ids) // PAGE_TOKENS)))
    layout = OffloadLayout(model.kv_shape, PAGE_TOKENS, model.dtype, model.device, coded=True)
    store = OffloadStore(layout, len(pages))
    attention = OffloadAttention(choose_attention(store.resident, model.heads), store)
    host = Host(attention, pages, speculative=True)
    read_stepwise(model, host, ids, PROMPT)
    stepwise = torch.stack([feed(model, host, ids, at, at + 1) for at in range(PROMPT, len(ids))])
    attention.close()
    memory = read_prompt(model, ids, PROMPT)
    selected = SelectedAttention(memory, CodedKeys(memory, fetched_tokens))
    in_chunks = forced_logits(model, ids, memory, selected)
    assert selected.share < 0.5
    assert torch.allclose(in_chunks, stepwise, atol=1e-4)


def test_everything_gives_the_logits_of_full_attention(model: LoadedModel, ids: list[int]) -> None:
    memory = read_prompt(model, ids, PROMPT)
    selected = SelectedAttention(memory, Everything())
    in_chunks = forced_logits(model, ids, memory, selected)
    whole = read_prompt(model, ids, len(ids))
    assert selected.share == 1
    for layer in range(model.kv_shape.layers):
        assert torch.allclose(memory.keys[layer], whole.keys[layer], atol=1e-4)
    assert in_chunks.shape == (FED, model.vocabulary)


def drawn(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def some_rows(seed: int, start: int, count: int) -> tuple[TextMemory, ChunkRows]:
    """A text's rows after a prompt of `start` tokens."""
    memory = TextMemory(1, KV_HEADS, DIM, start + count)
    heads = KV_HEADS * GROUP
    prompt = drawn(seed, start, heads, DIM), *drawn(seed + 1, 2, start, KV_HEADS, DIM)
    memory.read(0, 0, *prompt, scale=DIM**-0.5)
    memory.prompt = start
    query, foreseen = drawn(seed + 2, 2, count, heads, DIM)
    key, value = drawn(seed + 3, 2, count, KV_HEADS, DIM)
    keys, _ = memory.write(0, start, key, value)
    return memory, ChunkRows(0, start, query, foreseen, keys)


@given(st.integers(0, 1000), st.integers(20, 100), st.integers(1, 40), st.sampled_from([0.1, 0.5]))
def test_methods_keep_to_the_budget_and_to_earlier_tokens(
    seed: int, start: int, count: int, share: float
) -> None:
    def budget(tokens: int) -> int:
        return max(int(share * tokens), 1)

    memory, rows = some_rows(seed, start, count)
    skew = [skew_of(memory.grouped_queries(0))]
    for selector in (
        Oracle(budget),
        CodedKeys(memory, budget),
        InfiniGen(memory, budget, skew, alpha=1e9),
        HeavyHitters(memory, budget),
        Recent(budget, 1),
        Recent(budget, 0),
        Random(budget),
    ):
        left = selector.choose(rows)
        assert not (left & ~rows.before).any()
        assert (left.sum(-1) == torch.tensor(rows.counts(budget))).all(), type(selector)
    assert not (Pages(budget).choose(rows) & ~rows.before).any()
    near = InfiniGen(memory, budget, skew, alpha=1.0).choose(rows).sum(-1)
    assert (near <= torch.tensor(rows.counts(budget))).all()


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 20), st.data())
def test_highest_against_sorting(seed: int, start: int, count: int, data: st.DataObject) -> None:
    scores = drawn(seed, KV_HEADS, count, start + count)
    counts = [data.draw(st.integers(1, start + row)) for row in range(count)]
    chosen = highest(scores, start, counts)
    for head in range(KV_HEADS):
        for row, most in enumerate(counts):
            earlier = scores[head, row, : start + row]
            expected = sorted(earlier.tolist())[-most:]
            assert sorted(scores[head, row][chosen[head, row]].tolist()) == expected


def test_what_heavy_hitters_leave_out_never_comes_back() -> None:
    memory, rows = some_rows(5, 40, 30)
    left = HeavyHitters(memory, lambda tokens: tokens // 4).choose(rows)
    for row in range(1, rows.size):
        known = rows.start + row - 1
        returned = left[:, row, :known] & ~left[:, row - 1, :known]
        assert not returned.any()


def test_the_budget_is_at_least_what_the_product_fetches() -> None:
    assert [budget_of(0.05)(tokens) for tokens in (10, 100, 10_000)] == [10, 64, 500]
    assert all(budget_of(0.2)(tokens) == fetched_tokens(tokens) for tokens in range(1, 5_000, 7))
