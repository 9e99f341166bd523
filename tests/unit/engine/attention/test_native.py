"""The C kernel: shapes of heads and pages, and machines that cannot compile it."""

from pathlib import Path

import pytest
import torch

from engine.attention.compiled import KernelUnavailable, load
from engine.attention.decode import PagewiseDecode
from engine.attention.interface import Context
from engine.attention.native import NativeDecode
from engine.attention.reference import ReferenceAttention, ReferencePlan
from engine.kv.store import KvShape, KvStore
from engine.running.runner import choose_attention


def a_store(kv_heads: int, dim: int, page: int) -> KvStore:
    shape = KvShape(1, kv_heads, dim)
    store = KvStore(shape, 40, page, torch.float32, torch.device("cpu"))
    store.content.normal_(generator=torch.Generator().manual_seed(dim))
    return store


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
