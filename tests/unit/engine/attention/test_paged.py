"""Paged attention against a reference that computes one token at a time."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.attention.decode import PagewiseDecode
from engine.attention.interface import Context
from engine.attention.native import NativeDecode
from engine.attention.reference import ReferenceAttention
from engine.attention.shared_pages import SharingGate
from engine.kv.store import KvShape, KvStore

KV_HEADS, GROUP, DIM, PAGE = 2, 3, 8, 4
SCALE = 0.3


def a_store(pages: int = 64, layers: int = 1, dtype: torch.dtype = torch.float32) -> KvStore:
    store = KvStore(KvShape(layers, KV_HEADS, DIM), pages, PAGE, dtype, torch.device("cpu"))
    torch.manual_seed(pages)
    store.content.normal_()
    return store


def some_tokens(
    contexts: Sequence[Context], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a step, (tokens, heads, dim) each."""
    tokens = sum(context.length for context in contexts)
    heads = (KV_HEADS * GROUP, KV_HEADS, KV_HEADS)
    return tuple(torch.randn(tokens, count, DIM).to(dtype) for count in heads)  # type: ignore[return-value]


def token_by_token(
    store: KvStore, contexts: Sequence[Context], query: Tensor, window: int | None
) -> tuple[Tensor, Tensor]:
    """The expected output of each token, and which tokens are not padding."""
    outs, real = [], []
    tokens = [(context, context.start + n) for context in contexts for n in range(context.length)]
    for row, (context, index) in enumerate(tokens):
        low = max(context.padding, 0 if window is None else index - window + 1)
        places = [(context.pages[i // PAGE], i % PAGE) for i in range(low, index + 1)]
        keys, values = (
            torch.stack([pool[0][page, :, place] for page, place in places])
            if places
            else torch.zeros(1, KV_HEADS, DIM)
            for pool in (store.keys, store.values)
        )  # (context, kv_heads, dim)
        grouped = query[row].view(KV_HEADS, GROUP, DIM).float()
        shares = (torch.einsum("hgd,khd->hgk", grouped, keys.float()) * SCALE).softmax(-1)
        outs.append(torch.einsum("hgk,khd->hgd", shares, values.float()).flatten(0, 1))
        real.append(index >= context.padding)
    return torch.stack(outs), torch.tensor(real)


def implementations(store: KvStore) -> list[ReferenceAttention]:
    """Attention of single tokens by torch and by the C kernel, without and with a shared pass."""
    heads = KV_HEADS * GROUP
    any_sharing = SharingGate(tokens=1, rows=2)
    decodes = (
        PagewiseDecode(store),
        NativeDecode(store, heads),
        NativeDecode(store, heads, any_sharing),
    )
    return [ReferenceAttention(store, decode) for decode in decodes]


def check(contexts: Sequence[Context], window: int | None = None, pages: int = 64) -> None:
    store = a_store(pages)
    query, key, value = some_tokens(contexts)
    for attention in implementations(store):
        plan = attention.plan(contexts)
        out = attention.attend(plan, 0, query, key, value, scale=SCALE, window=window)
        expected, real = token_by_token(store, contexts, query, window)
        assert torch.isfinite(out).all()
        torch.testing.assert_close(out[real], expected[real], atol=1e-5, rtol=1e-4)


@st.composite
def steps(draw: st.DrawFn) -> list[Context]:
    """Chunks of sequences that may begin with the same pages; single tokens come first."""
    free = draw(st.permutations(range(64)))
    shared, own = free[:3], iter(free[3:])
    contexts = []
    for _ in range(draw(st.integers(1, 7))):
        prefix = draw(st.integers(0, 3))
        start = prefix * PAGE + draw(st.integers(0, 9))
        length = draw(st.sampled_from([1, 1, 1, 2, 6]))
        missing = -(-(start + length) // PAGE) - prefix
        padding = draw(st.sampled_from([0, 0, 0, 2, 5, 30]))
        pages = [*shared[:prefix], *(next(own) for _ in range(missing))]
        contexts.append(Context(start, length, pages, padding))
    return sorted(contexts, key=lambda context: context.length > 1)


@settings(max_examples=150, deadline=None)
@given(steps(), st.sampled_from([None, 1, 3, 6, 50]))
def test_each_token_sees_exactly_its_own_past(contexts: list[Context], window: int | None) -> None:
    check(contexts, window)


@pytest.mark.parametrize("page", [0, 900])
def test_distant_pages_are_read_like_adjacent_ones(page: int) -> None:
    check([Context(5, 1, [page, 999]), Context(2, 1, [page + 1])], pages=1000)


def test_a_page_may_have_many_readers() -> None:
    check([Context(4 + n % 3, 1, [0, 1 + n]) for n in range(40)])


def test_a_chunk_reads_what_another_chunk_of_the_step_writes() -> None:
    contexts = [Context(0, 4, [3]), Context(4, 2, [3, 5])]
    check(contexts)


def test_pages_of_other_sequences_do_not_matter() -> None:
    store = a_store()
    store.content[:, :, 1] = torch.nan
    contexts = [Context(2, 1, [0]), Context(6, 1, [4, 2]), Context(1, 2, [3])]
    query, key, value = some_tokens(contexts)
    for attention in implementations(store):
        plan = attention.plan(contexts)
        out = attention.attend(plan, 0, query, key, value, scale=SCALE, window=None)
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    store = a_store(dtype=dtype)
    contexts = [Context(9, 1, [0, 1, 2]), Context(6, 1, [0, 3], 5), Context(3, 4, [4, 5])]
    query, key, value = some_tokens(contexts, dtype)
    for attention in implementations(store):
        plan = attention.plan(contexts)
        out = attention.attend(plan, 0, query, key, value, scale=SCALE, window=None)
        expected, _ = token_by_token(store, contexts, query, None)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), expected, atol=0.03, rtol=0.03)


def test_copied_pages_keep_their_content() -> None:
    store = a_store(layers=2)
    copy = store.copy_out([7, 3])
    assert copy.shape == (2, 2, 2, KV_HEADS, PAGE, DIM)
    assert copy.is_contiguous()
    assert copy.nbytes == 2 * store.page_bytes
    store.copy_in([1, 2], copy)
    assert torch.equal(store.keys[1][1], store.keys[1][7])
    assert torch.equal(store.values[0][2], store.values[0][3])


def test_scrubbed_pages_are_zero() -> None:
    store = a_store(layers=2)
    store.scrub([5])
    assert not store.content[:, :, 5].any()
    assert store.content[:, :, 4].all()
