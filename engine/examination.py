"""`python -m engine.examination`: checks whether an engine could start here, without starting one.

Writes one JSON line per fact, as soon as it is known: a crash loses only what comes after it.
"""

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import torch
from msgspec import Struct
from safetensors import safe_open

from engine.attention.compiled import KernelUnavailable
from engine.attention.interface import Attention, Context
from engine.attention.native import NativeDecode
from engine.attention.reference import ReferenceAttention
from engine.attention.triton import TritonAttention
from engine.errors import StartupFailure
from engine.kv.store import KvStore
from engine.running.host_memory import available_bytes
from engine.running.loaded_model import check_supported, shape_of
from engine.running.model import choose_device
from engine.running.model_config import read_config
from engine.running.number_format import Processor, choose_format
from engine.running.sizing import cpu_pages
from engine.settings import Settings, read_settings

PAGES: Final = 4  # of the small case that the kernel computes
TOLERANCES: Final = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class Fact(Struct, frozen=True, omit_defaults=True):
    """What was found about a part: its status, in a sentence, and in numbers.

    `warning`: the engine works, but not as well as it could.
    """

    part: str
    status: Literal["ok", "warning", "failure"]
    message: str
    remedy: str = ""
    numbers: dict[str, int] = {}


def main() -> None:
    """Write the facts to standard output."""
    for fact in facts():
        sys.stdout.buffer.write(msgspec.json.encode(fact) + b"\n")
        sys.stdout.buffer.flush()


def facts() -> Iterator[Fact]:
    """What is found, in order: engine, then memory and kernel if one could start."""
    try:
        settings = read_settings()
        device = choose_device(settings.engine_device)
    except StartupFailure as failure:
        yield Fact("engine", "failure", str(failure), "correct this setting")
        return
    try:
        config = read_config(settings.model)
        check_supported(config)
    except StartupFailure as failure:
        yield Fact("engine", "failure", str(failure), "set LMAAS_MODEL to a served model")
        return
    dtype = _dtype(settings, device, config)
    yield Fact(
        "engine",
        "ok",
        f"could start: a {config.model_type} model on {device} "
        f"({str(dtype).removeprefix('torch.')}), torch {version('torch')}",
    )
    yield _part("memory", lambda: _memory(settings, device, dtype, config))
    yield _part("kernel", lambda: _kernel(settings, device, dtype, config))


def _part(part: str, find: Callable[[], Fact]) -> Fact:
    """The fact, or the exception that finding it raised."""
    try:
        return find()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
        line = (str(error).splitlines() or [""])[0]
        return Fact(part, "failure", f"{type(error).__name__}: {line}", "report this as a defect")


def _dtype(settings: Settings, device: torch.device, config: Any) -> torch.dtype:
    stored = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    return choose_format(settings.engine_dtype, stored, device, Processor.here()).dtype


def _memory(settings: Settings, device: torch.device, dtype: torch.dtype, config: Any) -> Fact:
    """Bytes that the weights and the KV memory take, and that are free."""
    shape, free = shape_of(config), available_bytes()
    elements = sum(_elements(path) for path in sorted(Path(settings.model).glob("*.safetensors")))
    weights = elements * dtype.itemsize
    tokens = settings.kv_tokens or settings.engine_step_tokens
    if device.type == "cpu" and not settings.kv_tokens:
        page_bytes = shape.page_bytes(settings.page_tokens, dtype)
        left = max(free - weights, 0)
        try:
            pages = cpu_pages(page_bytes, config.max_position_embeddings, settings, left)
        except StartupFailure as failure:
            return Fact("memory", "failure", str(failure), "set LMAAS_MODEL to a smaller model")
        tokens = pages * settings.page_tokens
    numbers = {
        "available": free,
        "weights": weights,
        "kv_token": 2 * shape.layers * shape.kv_heads * shape.head_dim * dtype.itemsize,
        "kv_tokens": tokens,
        "host_kv_tokens": settings.host_kv_tokens,
    }
    if device.type != "cpu":
        numbers["gpu_free"] = torch.cuda.mem_get_info(device)[0]
    return Fact("memory", "ok", "counted", numbers=numbers)


def _elements(path: Path) -> int:
    with safe_open(path, "pt") as weights:
        return sum(
            torch.Size(weights.get_slice(name).get_shape()).numel()
            for name in weights.keys()  # noqa: SIM118
        )


def _kernel(settings: Settings, device: torch.device, dtype: torch.dtype, config: Any) -> Fact:
    """Whether the decode kernel computes what torch computes, for heads like the model's."""
    shape, heads = shape_of(config), config.num_attention_heads
    store = KvStore(shape._replace(layers=1), 3 * PAGES, settings.page_tokens, dtype, device)
    store.content.normal_(generator=torch.Generator(device).manual_seed(1))
    try:
        fast, name = _fast_attention(store, heads)
    except KernelUnavailable as reason:
        return Fact(
            "kernel",
            "warning",
            f"the C kernel cannot be compiled, so torch decodes, more slowly: {reason}",
            "install gcc or clang, or set CC to a C compiler",
        )
    off = _difference(ReferenceAttention(store), fast, store, heads)
    if not off <= TOLERANCES[dtype]:
        return Fact(
            "kernel",
            "failure",
            f"{name} differs from torch by {off:.2g}",
            "delete ~/.cache/lmaas/kernels; if that does not help, set CC to another compiler",
        )
    return Fact("kernel", "ok", f"{name} computes as torch does (largest difference {off:.1g})")


def _fast_attention(store: KvStore, heads: int) -> tuple[Attention[Any], str]:
    if store.content.device.type == "cuda":
        return TritonAttention(store, heads), "the Triton kernel"
    return ReferenceAttention(store, NativeDecode(store, heads)), "the C kernel"


def _difference(
    reference: Attention[Any], fast: Attention[Any], store: KvStore, heads: int
) -> float:
    """The largest absolute difference of single tokens with contexts of several lengths."""
    content, (_, kv_heads, dim) = store.content, store.shape
    lengths = [1, store.page_tokens, PAGES * store.page_tokens - 1]
    contexts = [
        Context(length - 1, 1, range(PAGES * n, PAGES * (n + 1)))
        for n, length in enumerate(lengths)
    ]
    random = torch.Generator(content.device).manual_seed(2)

    def rows(count: int) -> torch.Tensor:
        shape = (len(lengths), count, dim)
        return torch.randn(shape, generator=random, device=content.device, dtype=torch.float32).to(
            content.dtype
        )

    query, key, value = rows(heads), rows(kv_heads), rows(kv_heads)
    with torch.inference_mode():
        found = [
            attention.attend(
                attention.plan(contexts), 0, query, key, value, scale=dim**-0.5, window=None
            ).float()
            for attention in (reference, fast)
        ]
    return float((found[0] - found[1]).abs().max())


if __name__ == "__main__":
    main()
