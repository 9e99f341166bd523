"""Steps of single tokens that share a prefix, and the time of their attention."""

from collections.abc import Callable
from functools import partial
from random import Random
from time import thread_time
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from engine.attention.interface import Attention, Context
from engine.attention.native import NativeDecode
from engine.attention.reference import ReferenceAttention
from engine.attention.shared_pages import SharingGate
from engine.attention.triton import TritonAttention
from engine.kv.store import KvShape, KvStore

PAGE_TOKENS: Final = 16
OWN: Final = (100, 300)  # tokens after the prefix
MORE: Final = 3  # layers measured after the first, at which shared pages are looked for
ANY_SHARING: Final = SharingGate(tokens=1, rows=2)
NO_SHARING: Final = SharingGate(tokens=2**40, rows=2)


class Heads(NamedTuple):
    """A model's heads and layers."""

    kv: int
    group: int
    dim: int
    layers: int


class Step(NamedTuple):
    """A step of single tokens."""

    contexts: list[Context]
    query: Tensor
    key: Tensor
    value: Tensor


class Sides(NamedTuple):
    """Attention over one store: in one pass, in two wherever pages are shared, and by the gate."""

    one: Attention[Any]
    two: Attention[Any]
    product: Attention[Any]


def a_store(heads: Heads, pages: int, dtype: torch.dtype, device: torch.device) -> KvStore:
    """Pages of random keys and values, of one layer."""
    store = KvStore(KvShape(1, heads.kv, heads.dim), pages, PAGE_TOKENS, dtype, device)
    store.content.normal_(generator=torch.Generator(device).manual_seed(1))
    return store


def sides(store: KvStore, heads: Heads) -> Sides:
    """On a CPU the C kernel. KernelUnavailable if it cannot be compiled. On a GPU Triton."""
    queries = heads.kv * heads.group
    if store.content.device.type == "cuda":
        return Sides(
            TritonAttention(store, queries, gate=None),
            TritonAttention(store, queries, gate=ANY_SHARING),
            TritonAttention(store, queries),
        )
    gates = (NO_SHARING, ANY_SHARING, None)
    return Sides(*(ReferenceAttention(store, NativeDecode(store, queries, gate)) for gate in gates))


def pages_needed(rows: int, prefix: int, *, shared: bool) -> int:
    """The most pages that a step of this shape uses."""
    own = rows * -(-(OWN[1] + 1) // PAGE_TOKENS)
    return prefix // PAGE_TOKENS * (1 if shared else rows) + own


def a_step(store: KvStore, heads: Heads, rows: int, prefix: int, *, shared: bool = True) -> Step:
    """Rows with `prefix` tokens on the same pages or, if not `shared`, each on its own."""
    rng = Random(rows)
    free = iter(rng.sample(range(store.pages), pages_needed(rows, prefix, shared=shared)))
    trunk = [next(free) for _ in range(prefix // PAGE_TOKENS)]
    contexts = []
    for row in range(rows):
        if row and not shared:
            trunk = [next(free) for _ in trunk]
        start = len(trunk) * PAGE_TOKENS + rng.randint(*OWN)
        own = [next(free) for _ in range(start // PAGE_TOKENS + 1 - len(trunk))]
        contexts.append(Context(start, 1, [*trunk, *own]))
    query, key, value = (
        store.content.new_empty((rows, count, heads.dim)).normal_()
        for count in (heads.kv * heads.group, heads.kv, heads.kv)
    )
    return Step(contexts, query, key, value)


def attention_s(attention: Attention[Any], step: Step, layers: int) -> float:
    """Seconds of a step's attention per layer, with its plan: of the thread, or of the GPU."""
    plan = attention.plan(step.contexts)  # its tables are built for either side

    def attend(times: int) -> None:
        for _ in range(times):
            attention.attend(
                plan,
                0,
                step.query,
                step.key,
                step.value,
                scale=step.query.shape[2] ** -0.5,
                window=None,
            )

    timed = _thread_s if step.query.device.type == "cpu" else _gpu_s
    first, others = timed(partial(attend, 1)), timed(partial(attend, MORE)) / MORE
    return (first + (layers - 1) * others) / layers


def _thread_s(work: Callable[[], object]) -> float:
    start = thread_time()
    work()
    return thread_time() - start


def _gpu_s(work: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
