"""A lower bound on any engine's time on this machine: matrix products alone, at peak speed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.engine.models import Shape
from benchmarks.engine.workload import Request
from benchmarks.harness.paths import ROOT


class Peak(NamedTuple):
    """The machine's peak: floating-point operations and bytes read per second."""

    flops: float
    bytes_s: float


class Work(NamedTuple):
    """Of one step: tokens through the layers, and tokens sampled after it."""

    tokens: int
    sampled: int


def peak(weights: int, dtype: str, threads: int) -> Peak:
    """Measure the peak in a new process, on a buffer of the size of the weights."""
    arguments = [str(weights), dtype, str(threads)]
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.engine.peak", *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return Peak(**json.loads(found.stdout))


def ideal_steps(requests: list[Request], step_tokens: int) -> Iterator[Work]:
    """The steps with unlimited memory: all sequences decode, prompts fill the rest."""
    prompts = [len(request.prompt) for request in requests]
    left = [request.tokens for request in requests]
    while any(left):
        decoding = [n for n, prompt in enumerate(prompts) if prompt == 0 and left[n]]
        room = step_tokens - len(decoding)
        computed, sampling = len(decoding), list(decoding)
        for number, prompt in enumerate(prompts):
            chunk = min(prompt, room)
            prompts[number] -= chunk
            room -= chunk
            computed += chunk
            if chunk and not prompts[number]:
                sampling.append(number)
        for number in sampling:
            left[number] -= 1
        yield Work(computed, len(sampling))


def floor_s(shape: Shape, steps: Iterator[Work], best: Peak, weight_bytes: int) -> float:
    """Per step, the longer of reading all matrices once and computing the products; seconds."""
    read_s = (shape.layer_weights + shape.head_weights) * weight_bytes / best.bytes_s
    return sum(max(read_s, _flops(shape, work) / best.flops) for work in steps)


def _flops(shape: Shape, work: Work) -> float:
    return 2.0 * (shape.layer_weights * work.tokens + shape.head_weights * work.sampled)
