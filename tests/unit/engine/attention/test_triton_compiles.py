"""The kernels compile for GPUs, which needs no GPU; the interpreter accepts more than they do."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

AMPERE, HOPPER = 80, 90
SHARED = {AMPERE: 163 * 1024, HOPPER: 227 * 1024}  # shared memory limit of a program, in bytes
POINTERS = ("query", "keys", "values", "out", "key", "value")
INTEGERS = ("pages", "chunks", "tiles", "members", "first_own", "slots")
SUMS = ("parts", "totals", "peaks")
NUMBERS = {"scale": "fp32"}
SIZES = {"page_tokens": 16, "dim": 128, "dims": 128, "pool_dim": 1}
SINGLE = {
    "single": True,
    "resumed": False,
    "unsplit": False,
    "windowed": False,
    "group": 4,
    "tile_tokens": 1,
    "rows": 16,
}
CHUNKS = SINGLE | {
    "single": False,
    "unsplit": True,
    "windowed": True,
    "tile_tokens": 32,
    "rows": 128,
}
RESUMED = SINGLE | {"resumed": True}
SHARED_PAGES = {"group": 4, "rows": 64}


def test_kernels_compile_for_ampere_and_hopper(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, __file__],
        env=environment
        | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr


def test_the_engine_starts_without_triton() -> None:
    script = "import sys; sys.modules['triton'] = None; import engine.running.runner"
    script += ", engine.running.graphs, engine.attention.triton"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)


def build(
    kernel: Any, capability: int, number: str, constants: dict[str, Any], **options: int
) -> Any:
    """Compile a kernel for a compute capability, with strides and addresses aligned to 16."""
    types: dict[str, str] = {}
    for name in kernel.arg_names:
        if name in POINTERS:
            types[name] = f"*{number}"
        elif name in INTEGERS + SUMS:
            types[name] = "*i32" if name in INTEGERS else "*fp32"
        else:
            types[name] = "constexpr" if name in constants else NUMBERS.get(name, "i32")
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(types)
        if types[name].startswith("*") or ("_" in name and name not in constants)
    }
    source = import_module("triton.compiler").ASTSource(
        kernel,
        types,
        {(place,): constants[name] for place, name in enumerate(types) if name in constants},
        aligned,
    )
    target = import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    return import_module("triton").compile(source, target=target, options=options)


def build_all() -> None:
    kernels = import_module("engine.attention.triton_kernels")
    for capability, number in ((AMPERE, "fp16"), (HOPPER, "bf16")):
        build(kernels.store_kv, capability, number, SIZES | {"block": 16})
        build(kernels.combine, capability, number, SIZES | {"block": 16})
        for kernel, shape, warps in (
            (kernels.attend, SINGLE, 4),
            (kernels.attend, RESUMED, 4),
            (kernels.attend_shared, SHARED_PAGES, 4),
            (kernels.attend, CHUNKS, 8),
        ):
            sizes = SIZES | shape | {"block": 64, "precision": "ieee"}
            compiled = build(kernel, capability, number, sizes, num_warps=warps, num_stages=3)
            assert compiled.metadata.shared <= SHARED[capability]


if __name__ == "__main__":
    build_all()
