"""Measures this machine's peak: `python -m benchmarks.engine.peak WEIGHTS DTYPE THREADS`."""

import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Final

import torch

MATRIX_SIZE: Final = 1024
REPETITIONS: Final = 12


def fastest_s(work: Callable[[], object]) -> float:
    """The shortest time of some work in seconds, after warm-up."""
    times = []
    for _ in range(REPETITIONS):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times[2:])


def main(weights: int, dtype: str, threads: int) -> None:
    """Print the peaks as JSON."""
    torch.set_num_threads(threads)
    number_format = getattr(torch, dtype)
    buffer = torch.ones(weights, dtype=number_format).view(torch.int32)
    left = torch.randn(MATRIX_SIZE, MATRIX_SIZE).to(number_format)
    right = torch.randn(MATRIX_SIZE, MATRIX_SIZE).to(number_format)
    flops = 2 * MATRIX_SIZE**3 / fastest_s(lambda: left @ right)
    read = buffer.numel() * buffer.element_size() / fastest_s(buffer.max)
    print(json.dumps({"flops": flops, "bytes_s": read}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
