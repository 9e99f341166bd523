"""The GPU's attention against a dense reference in float64."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.attention.interface import Attention, Context
from engine.attention.reference import ReferenceAttention
from engine.attention.shared_pages import SharingGate
from engine.attention.triton import TritonAttention
from engine.attention.triton_plan import NO_SLOT
from engine.kv.store import KvShape, KvStore
from engine.networks.interface import Packed
from engine.running.graphs import DecodeGraphs
from engine.running.model import load_model

CPU = torch.device("cpu")
POOL = 96
ROUNDING = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(scope="module", autouse=True)
def _interpreted() -> Iterator[None]:
    """Run kernels in Triton's interpreter, even if Triton was imported before.

    The interpreter cannot call compiled functions, so kernels are created under the variable that
    it reads, and the library functions that they use are replaced by interpreted ones.
    """
    language = import_module("triton.language")
    interpreter = import_module("triton.runtime.interpreter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        assert import_module("engine.attention.triton_kernels").INTERPRETED
        for name in ("max", "sum"):
            function = getattr(language, name)
            patch.setattr(language, name, interpreter.InterpretedFunction(function.fn))
        yield


class HeadShape(NamedTuple):
    group: int = 2
    kv_heads: int = 2
    dim: int = 16


class AttentionBench:
    """One layer with random pages, and random steps over them."""

    def __init__(
        self,
        heads: HeadShape = HeadShape(),  # noqa: B008 - immutable
        *,
        page_tokens: int = 4,
        dtype: torch.dtype = torch.float32,
        multiprocessors: int = 1,
        gate: SharingGate | None = None,
    ) -> None:
        self.heads = heads
        self.page_tokens = page_tokens
        self.noise = torch.Generator().manual_seed(11)
        shape = KvShape(1, heads.kv_heads, heads.dim)
        self.store = KvStore(shape, POOL, page_tokens, dtype, CPU)
        self.store.content.normal_(generator=self.noise)
        self.attention = TritonAttention(
            self.store,
            heads.group * heads.kv_heads,
            multiprocessors=multiprocessors,
            gate=gate,
        )
        self._free_pages = count(POOL - 1, -1)

    def chunk(self, start: int, length: int, padding: int = 0, *, spare: int = 0) -> Context:
        """A chunk on new pages, from the last page down, with `spare` extra ones."""
        pages = -(-(start + length) // self.page_tokens) + spare
        return Context(start, length, [next(self._free_pages) for _ in range(pages)], padding)

    def behind(self, prefix: list[int], own: int, length: int = 1) -> Context:
        """A chunk whose context is some shared pages and `own` tokens before it."""
        pages = self.chunk(own, length).pages
        return Context(len(prefix) * self.page_tokens + own, length, [*prefix, *pages])

    def numbers(self, tokens: int, heads: int) -> Tensor:
        shape = (tokens, heads, self.heads.dim)
        return torch.randn(shape, generator=self.noise).to(self.store.content.dtype)

    def check(self, contexts: Sequence[Context], window: int | None = None) -> None:
        """Check that a step gives the oracle's result."""
        tokens = sum(context.length for context in contexts)
        group, kv_heads, dim = self.heads
        query = self.numbers(tokens, group * kv_heads)
        key, value = self.numbers(tokens, kv_heads), self.numbers(tokens, kv_heads)
        before = self.store.content.double()
        plan = self.attention.plan(contexts)
        actual = self.attention.attend(
            plan, 0, query, key, value, scale=dim**-0.5, window=window
        ).double()
        assert actual.shape == query.shape
        assert not actual.isnan().any()
        pool = written(before[:, 0], contexts, torch.stack([key, value]).double())
        assert torch.equal(self.store.content[:, 0].double(), pool)
        expected = oracle(pool, contexts, query.double(), window)
        valid = ~expected.isnan()
        limit = ROUNDING[self.store.content.dtype]
        torch.testing.assert_close(actual[valid], expected[valid], atol=limit, rtol=limit)


def places(context: Context, page_tokens: int) -> tuple[Tensor, Tensor]:
    tokens = torch.arange(context.start + context.length)
    return torch.tensor(context.pages)[tokens // page_tokens], tokens % page_tokens


def written(pool: Tensor, contexts: Sequence[Context], new: Tensor) -> Tensor:
    """Keys and values, (2, pages, kv_heads, page_tokens, dim), after a step's writes."""
    row = 0
    for context in contexts:
        pages, within = places(context, pool.shape[3])
        for token in range(context.start, context.start + context.length):
            pool[:, pages[token], :, within[token]] = new[:, row]
            row += 1
    return pool


def oracle(pool: Tensor, contexts: Sequence[Context], query: Tensor, window: int | None) -> Tensor:
    """One softmax for every query and head over the keys it sees; NaN for padding."""
    rows: list[Tensor] = []
    group = query.shape[1] // pool.shape[2]
    for context in contexts:
        pages, within = places(context, pool.shape[3])
        keys, values = pool[:, pages, :, within].repeat_interleave(group, 2).unbind(1)
        for token in range(context.start, context.start + context.length):
            seen = range(max(context.padding, token - (window or token + 1) + 1), token + 1)
            one = query[len(rows)]
            if token < context.padding:
                rows.append(torch.full_like(one, torch.nan))
                continue
            scores = torch.einsum("hd,khd->hk", one, keys[seen]) * one.shape[-1] ** -0.5
            rows.append(torch.einsum("hk,khd->hd", scores.softmax(-1), values[seen]))
    return torch.stack(rows)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("group", [1, 3, 7, 16])
def test_single_tokens_and_chunks_of_a_step_see_their_own_sequences(
    group: int, window: int | None
) -> None:
    bench = AttentionBench(HeadShape(group))
    singles = [bench.chunk(start, 1) for start in (0, 3, 4, 37)]
    bench.check([*singles, bench.chunk(0, 6), bench.chunk(9, 19), bench.chunk(2, 2)], window)


@pytest.mark.parametrize("dim", [8, 64, 80, 96, 128, 256])
def test_heads_may_have_any_width(dim: int) -> None:
    bench = AttentionBench(HeadShape(3, 1, dim))
    bench.check([bench.chunk(21, 1), bench.chunk(3, 9)])


@pytest.mark.parametrize("page_tokens", [1, 6, 16, 32])
def test_pages_may_have_any_size(page_tokens: int) -> None:
    bench = AttentionBench(page_tokens=page_tokens)
    bench.check([bench.chunk(18, 1), bench.chunk(7, 12, spare=1)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 40])
def test_half_precision_only_rounds(dtype: torch.dtype, window: int | None) -> None:
    bench = AttentionBench(HeadShape(4, 1, 64), page_tokens=16, dtype=dtype, multiprocessors=2)
    bench.check([bench.chunk(150, 1), bench.chunk(69, 1, 20), bench.chunk(100, 40, 7)], window)


@pytest.mark.parametrize("window", [None, 1, 30])
@pytest.mark.parametrize("multiprocessors", [1, 4, 40])
def test_splitting_long_contexts_changes_nothing(multiprocessors: int, window: int | None) -> None:
    bench = AttentionBench(HeadShape(2, 1), page_tokens=16, multiprocessors=multiprocessors)
    contexts = [bench.chunk(430, 1), bench.chunk(2, 1), bench.chunk(300, 5, 17)]
    plan = bench.attention.plan(contexts)
    assert (plan.splits > 1, plan.tile_splits > 1) == (True, True)
    bench.check(contexts, window)


@pytest.mark.parametrize("multiprocessors", [1, 9])
@pytest.mark.parametrize("window", [None, 6])
def test_padding_is_invisible_and_finite(multiprocessors: int, window: int | None) -> None:
    bench = AttentionBench(multiprocessors=multiprocessors)
    contexts = [bench.chunk(9, 1, 7), bench.chunk(2, 1, 5), bench.chunk(6, 1, 6)]
    contexts += [bench.chunk(0, 70, 66), bench.chunk(3, 4, 9), bench.chunk(8, 60, 3)]
    bench.check(contexts, window)


def test_nan_in_padding_keys_does_no_harm() -> None:
    bench = AttentionBench()
    contexts = [bench.chunk(13, 1, 8), bench.chunk(8, 5, 8)]
    for context in contexts:
        bench.store.content[:, :, context.pages[:2]] = torch.nan
    query, key = bench.numbers(6, 4), bench.numbers(6, 2)
    plan = bench.attention.plan(contexts)
    out = bench.attention.attend(plan, 0, query, key, key, scale=1.0, window=None)
    assert out.isfinite().all()


def test_a_chunk_reads_what_another_one_of_its_step_writes() -> None:
    bench = AttentionBench()
    first = bench.chunk(5, 7)
    tail = bench.chunk(0, 6)
    behind = Context(12, 5, [*first.pages, *tail.pages])
    single = Context(12, 1, [*first.pages, *bench.chunk(0, 1).pages])
    bench.check([single, behind, first])


def test_sequences_share_the_pages_of_a_prefix() -> None:
    bench = AttentionBench()
    prefix = bench.chunk(0, 20).pages
    others = [bench.chunk(0, length) for length in (1, 3, 9)]
    contexts = [Context(20, other.length, [*prefix, *other.pages]) for other in others]
    bench.check([*contexts, Context(22, 7, [*prefix, *bench.chunk(0, 9).pages], 4)])


@pytest.mark.parametrize(
    ("group", "multiprocessors", "dtype"),
    [(1, 1, torch.float32), (3, 40, torch.float32), (16, 1, torch.bfloat16)],
)
def test_pages_that_single_tokens_share_are_read_once(
    group: int, multiprocessors: int, dtype: torch.dtype
) -> None:
    bench = AttentionBench(
        HeadShape(group), dtype=dtype, multiprocessors=multiprocessors, gate=SharingGate(8, 2)
    )
    long, short = bench.chunk(0, 75).pages, bench.chunk(0, 8).pages
    singles = [bench.behind(long, own) for own in (5, 0, 2)]
    singles.insert(1, bench.chunk(17, 1))
    singles += [bench.behind(short, own) for own in (3, 4)]
    singles.insert(3, Context(9, 1, [*short, bench.chunk(0, 1).pages[0]], 1))  # padded
    plan = bench.attention.plan(singles)
    assert plan.shared is not None
    assert sorted(plan.shared.first_own.tolist()) == [0, 0, 8, 8, 76, 76, 76]
    bench.check([*singles, bench.behind(long, 1, 6)])


@pytest.mark.parametrize("window", [3, 30, 500])
def test_a_window_that_hides_shared_keys_hides_them(window: int) -> None:
    bench = AttentionBench(multiprocessors=4, gate=SharingGate(8, 2))
    prefix = bench.chunk(0, 24).pages
    bench.check([bench.behind(prefix, own) for own in (0, 7, 2, 9)], window)


def test_more_tokens_than_a_tile_holds_share_pages() -> None:
    bench = AttentionBench(HeadShape(8, 1), gate=SharingGate(8, 2))
    prefix = bench.chunk(0, 12).pages
    contexts = [bench.behind(prefix, own % 5) for own in range(7)]
    plan = bench.attention.plan(contexts)
    assert plan.shared is not None
    assert plan.shared.tiles[:, 1].tolist() == [2, 2, 2, 1]
    bench.check(contexts)


@settings(deadline=None, max_examples=10)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20)), min_size=2, max_size=6),
    st.integers(1, 5),
    st.sampled_from([1, 12]),
)
def test_any_shared_beginnings_give_the_result_of_dense_attention(
    rows: list[tuple[int, int]], group: int, multiprocessors: int
) -> None:
    bench = AttentionBench(
        HeadShape(group), page_tokens=8, multiprocessors=multiprocessors, gate=SharingGate(1, 2)
    )
    trunk = bench.chunk(0, 48).pages
    bench.check([bench.behind(trunk[:pages], own) for pages, own in rows])


def test_pools_and_inputs_may_be_views() -> None:
    bench = AttentionBench(HeadShape(2, 3, 16))
    by_token = bench.store.content.transpose(3, 4).contiguous().transpose(3, 4)
    bench.store.keys, bench.store.values = list(by_token[0]), list(by_token[1])
    bench.store.content = by_token
    qkv = bench.numbers(5, 6 + 2 * 3)
    contexts = [bench.chunk(6, 1), bench.chunk(1, 4)]
    plan = bench.attention.plan(contexts)
    query, key, value = qkv.split((6, 3, 3), 1)
    value = value.transpose(1, 2).contiguous().transpose(1, 2)
    out = bench.attention.attend(plan, 0, query, key, value, scale=0.25, window=None)
    expected = oracle(by_token[:, 0].double(), contexts, query.double(), None)
    torch.testing.assert_close(out.double(), expected, atol=3e-6, rtol=3e-6)


chunks = st.tuples(st.integers(0, 70), st.integers(1, 20), st.integers(0, 9))


@settings(deadline=None, max_examples=10)
@given(
    st.lists(chunks, min_size=1, max_size=3),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([None, 1, 3, 33]),
    st.sampled_from([1, 12]),
)
def test_any_step_gives_the_result_of_dense_attention(
    found: list[tuple[int, int, int]],
    group: int,
    kv_heads: int,
    window: int | None,
    multiprocessors: int,
) -> None:
    bench = AttentionBench(
        HeadShape(group, kv_heads), page_tokens=8, multiprocessors=multiprocessors
    )
    found.sort(key=lambda chunk: chunk[1] > 1)
    bench.check([bench.chunk(*chunk) for chunk in found], window)


@pytest.mark.parametrize("window", [None, 9])
def test_unused_rows_of_a_static_plan_change_nothing(window: int | None) -> None:
    bench = AttentionBench(multiprocessors=8)
    static_plan = bench.attention.static_plan(6, 200)
    query, key, value = (bench.numbers(6, heads) for heads in (4, 2, 2))
    for contexts in (
        [bench.chunk(start, 1) for start in (3, 90, 0, 7, 1)],
        [bench.chunk(start, 1, 1) for start in (44, 5)],
    ):
        plan = bench.attention.plan(contexts)
        assert static_plan.fits(plan)
        static_plan.fill(plan)
        rows = plan.singles
        expected = bench.attention.attend(
            plan, 0, query[:rows], key[:rows], value[:rows], scale=0.25, window=window
        )
        kept = bench.store.content.clone()
        actual = bench.attention.attend(
            static_plan.first_rows(6), 0, query, key, value, scale=0.25, window=window
        )
        torch.testing.assert_close(actual[:rows], expected, atol=3e-6, rtol=3e-6)
        assert not actual[rows:].any()
        assert torch.equal(bench.store.content, kept)
        assert (static_plan.first_rows(6).slots[rows:] == NO_SLOT).all()


def replayable(work: Callable[[], None]) -> SimpleNamespace:
    """A substitute for a CUDA graph without CUDA."""
    work()
    return SimpleNamespace(replay=work)


def packed(contexts: Sequence[Context], attention: Attention[Any]) -> Packed:
    lengths = torch.tensor([context.length for context in contexts])
    positions = torch.cat([torch.arange(c.start, c.start + c.length) for c in contexts])
    return Packed(
        token_ids=positions * 7 % 97,
        positions=positions,
        sample_rows=lengths.cumsum(0) - 1,
        plan=attention.plan(contexts),
        carry=None,
    )


@pytest.mark.parametrize("gate", [None, SharingGate(8, 2)], ids=["each", "shared"])
@pytest.mark.parametrize("family", ["llama", "qwen2-mixed"])
def test_replayed_steps_give_the_logits_of_the_reference(
    family: str, gate: SharingGate | None, model_folder: Callable[[str], Path]
) -> None:
    model = load_model(str(model_folder(family)), "cpu", "float32")
    stores = [KvStore(model.kv_shape, 24, 4, model.dtype, CPU) for _ in range(2)]
    reference = ReferenceAttention(stores[0])
    attention = TritonAttention(stores[1], heads=4, multiprocessors=2, gate=gate)
    forward = partial(model.network, attention=attention)
    with torch.inference_mode():
        graphs = DecodeGraphs(forward, attention.static_plan(6, 64), 6, CPU, record=replayable)
        shared, own = [1, 3, 5], [[8, 9], [2, 10], [11, 4]]
        steps = [[Context(0, 12, shared)]]
        steps += [[Context(12, 1, shared + own[0]), Context(12, 3, shared + own[1])]]
        for at, rows in enumerate((1, 3, 2)):
            starts = zip((13, 15, 12), own[:rows], strict=False)
            steps.append([Context(start + at, 1, shared + pages) for start, pages in starts])
        for contexts in steps:
            expected = model.network(packed(contexts, reference), reference)
            logits = graphs(packed(contexts, attention))
            torch.testing.assert_close(logits, expected, atol=2e-5, rtol=2e-5)
