"""The C kernel: shapes of heads and pages, shared pages, and machines that cannot compile it."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import engine.attention.compiled
from engine.attention.compiled import KernelUnavailable, load
from engine.attention.decode import PagewiseDecode
from engine.attention.interface import Context
from engine.attention.native import NativeDecode
from engine.attention.reference import ReferenceAttention, ReferencePlan
from engine.attention.shared_pages import SharingGate
from engine.kv.store import KvShape, KvStore
from engine.running.runner import choose_attention

CPU_FLAGS = {"widest": (), "avx2": ("-mno-avx512f",), "sse": ("-mno-avx",)}
X86 = platform.machine() == "x86_64"


def a_store(
    kv_heads: int, dim: int, page: int, *, pages: int = 40, dtype: torch.dtype = torch.float32
) -> KvStore:
    shape = KvShape(1, kv_heads, dim)
    store = KvStore(shape, pages, page, dtype, torch.device("cpu"))
    store.content.normal_(generator=torch.Generator().manual_seed(dim))
    return store


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Threads of the kernel, which decide how rows are cut into tiles."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def a_family(store: KvStore, members: int, seed: int = 0) -> list[Context]:
    """Rows in no order: a third begin with the same pages, half of these with more of them."""
    page, noise = store.page_tokens, torch.Generator().manual_seed(seed)
    free = torch.randperm(store.pages, generator=noise).tolist()
    trunk, branch, leaf = free[:3], free[3:5], free[5:6]
    rest = iter(free[6:])
    contexts = []
    for member in torch.randperm(members, generator=noise).tolist():
        shared = [[], trunk, trunk + branch, trunk + branch + leaf][member % 4]
        own = int(torch.randint(1, 2 * page + 1, (), generator=noise))
        pages = [*shared, *(next(rest) for _ in range(-(-own // page)))]
        contexts.append(Context(len(shared) * page + own - 1, 1, pages))
    return contexts


def attended(
    store: KvStore, decode: NativeDecode, contexts: list[Context], query: Tensor
) -> Tensor:
    attention = ReferenceAttention(store, decode)
    kv = store.keys[0].new_ones((len(contexts), store.shape.kv_heads, store.shape.head_dim))
    plan = attention.plan(contexts)
    return attention.attend(plan, 0, query, kv, kv, scale=0.3, window=None)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kv_heads", "group", "dim", "page"),
    [(2, 3, 64, 16), (1, 1, 32, 48), (3, 4, 80, 5), (1, 9, 17, 8)],
)
def test_a_row_has_the_same_bits_alone_and_with_others_that_share_its_pages(
    kv_heads: int, group: int, dim: int, page: int, dtype: torch.dtype
) -> None:
    store = a_store(kv_heads, dim, page, pages=160, dtype=dtype)
    decode = NativeDecode(store, kv_heads * group, SharingGate(tokens=page, rows=2))
    contexts = a_family(store, 48)
    query = torch.randn(48, kv_heads * group, dim).to(dtype)
    together = attended(store, decode, contexts, query)
    plan = ReferenceAttention(store, decode).plan(contexts).decode(kv_heads * group, None)
    assert sorted(set(plan.leading.tolist())) == [0, 3, 5, 6]
    alone = [attended(store, decode, [c], query[n : n + 1]) for n, c in enumerate(contexts)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.skipif(not X86, reason="these registers are of x86")
@pytest.mark.parametrize("registers", CPU_FLAGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_registers_of_any_width_compute_the_same(
    registers: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (*engine.attention.compiled.COMPILER_FLAGS, *CPU_FLAGS[registers])
    monkeypatch.setattr(engine.attention.compiled, "COMPILER_FLAGS", flags)
    store = a_store(2, 40, 16, pages=160, dtype=dtype)
    contexts, query = a_family(store, 48), torch.randn(48, 6, 40).to(dtype)
    outs = [
        attended(store, NativeDecode(store, 6, SharingGate(tokens, 2)), contexts, query)
        for tokens in (16, 10_000)
    ]
    assert torch.equal(*outs)
    paged = ReferenceAttention(store, PagewiseDecode(store))
    expected = paged.attend(
        paged.plan(contexts), 0, query, *[store.keys[0].new_ones((48, 2, 40))] * 2,
        scale=0.3, window=None,
    )  # fmt: skip
    limit = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(outs[0], expected, atol=limit, rtol=limit)


def test_pages_are_shared_from_the_gate_on() -> None:
    store = a_store(1, 32, 16, pages=1200)
    decode = NativeDecode(store, 2)

    def shared(tokens: int, rows: int) -> bool:
        prefix = list(range(tokens // 16))
        contexts = [Context(tokens + 3, 1, [*prefix, 1100 + n]) for n in range(rows)]
        return ReferenceAttention(store, decode).plan(contexts).decode(2, None).order is not None

    assert shared(768, 22)
    assert not shared(768, 21)
    assert not shared(752, 80)
    assert shared(8192, 2)
    assert not shared(16_384, 1)


@pytest.mark.parametrize(
    ("kv_heads", "group", "dim", "page"),
    [(1, 1, 1, 1), (2, 2, 64, 16), (1, 7, 80, 16), (3, 1, 16, 5), (2, 1, 256, 32), (1, 2, 17, 48)],
)
def test_it_agrees_with_torch(kv_heads: int, group: int, dim: int, page: int) -> None:
    store, heads = a_store(kv_heads, dim, page), kv_heads * group
    lengths = [1, page, page + 1, 3 * page + 1]
    tables = [list(range(10 * n, 10 * n + 4)) for n in range(4)]
    contexts = [Context(n - 1, 1, pages, n // 3) for n, pages in zip(lengths, tables, strict=True)]
    query = torch.randn(4, heads, dim)
    key, value = torch.randn(2, 4, kv_heads, dim)
    outs = []
    for decode in (PagewiseDecode(store), NativeDecode(store, heads)):
        attention = ReferenceAttention(store, decode)
        plan = attention.plan(contexts)
        outs.append(attention.attend(plan, 0, query, key, value, scale=0.2, window=None))
    torch.testing.assert_close(outs[1], outs[0], atol=1e-5, rtol=1e-4)


def test_scores_far_apart_do_not_overflow() -> None:
    store = a_store(1, 16, 16)
    store.keys[0].mul_(1e4)
    attention = ReferenceAttention(store, NativeDecode(store, 2))
    plan = attention.plan([Context(30, 1, [0, 1])])
    rows = torch.full((1, 2, 16), 100.0), torch.ones(1, 1, 16), torch.ones(1, 1, 16)
    out = attention.attend(plan, 0, *rows, scale=1.0, window=None)
    assert torch.isfinite(out).all()


def test_queries_may_have_any_strides() -> None:
    store = a_store(2, 8, 4)
    attention = ReferenceAttention(store, NativeDecode(store, 4))
    contexts = [Context(n, 1, [n]) for n in range(3)]
    query, key, value = (
        torch.randn(8, 4, 3).permute(2, 1, 0),
        torch.randn(3, 2, 8),
        torch.randn(3, 2, 8),
    )
    outs = [
        attention.attend(attention.plan(contexts), 0, q, key, value, scale=1.0, window=None)
        for q in (query, query.contiguous())
    ]
    assert torch.equal(*outs)


def test_without_a_compiler_torch_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    store = a_store(1, 8, 4)
    with pytest.raises(KernelUnavailable, match="none of cc, gcc, clang is installed"):
        NativeDecode(store, 1)
    plan = choose_attention(store, 1).plan([Context(0, 1, [0])])
    assert isinstance(plan, ReferencePlan)
    assert plan.decode(1, None).passes


def test_the_compilers_error_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "wrong.c"
    source.write_text("this is not C")
    with pytest.raises(KernelUnavailable, match="error"):
        load(source, {})
    monkeypatch.setenv("CC", "/nowhere/cc")
    with pytest.raises(KernelUnavailable, match="/nowhere/cc"):
        load(source, {})


def test_a_kernel_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        NativeDecode(a_store(1, 8, 4), 1)
    libraries = list(Path(tmp_path, "lmaas", "kernels").iterdir())
    assert len(libraries) == 1
    NativeDecode(a_store(2, 8, 4), 2)
    assert len(list(Path(tmp_path, "lmaas", "kernels").iterdir())) == 2


@pytest.mark.parametrize("cache", ["/proc/none", "/dev/null"])
def test_the_kernel_is_compiled_without_a_cache_too(
    monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    NativeDecode(a_store(1, 8, 4), 1)
