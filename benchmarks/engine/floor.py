"""The time below which no engine comes on this machine: matrix products alone, at their best."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.engine.models import SHAPES, Shape
from benchmarks.engine.workload import Request
from benchmarks.harness.paths import ROOT


class Peak(NamedTuple):
    """What the machine reaches: multiplications and additions a second, and bytes read."""

    flops: float
    bytes_s: float


class Work(NamedTuple):
    """Tokens of one step that go through the layers, and how many tokens are drawn after it."""

    tokens: int
    drawn: int


def peak(size: str, dtype: str, threads: int) -> Peak:
    """Measured now, in a process of its own, on a buffer as large as the size's weights."""
    arguments = [str(SHAPES[size].weights), dtype, str(threads)]
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.engine.peak", *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return Peak(**json.loads(found.stdout))


def ideal_steps(requests: list[Request], step_tokens: int) -> Iterator[Work]:
    """The steps of an engine whose memory holds everything: all decode, prompts fill the rest."""
    prompts = [len(request.prompt) for request in requests]
    left = [request.tokens for request in requests]
    while any(left):
        decoding = [n for n, prompt in enumerate(prompts) if prompt == 0 and left[n]]
        room = step_tokens - len(decoding)
        computed, drawing = len(decoding), list(decoding)
        for number, prompt in enumerate(prompts):
            chunk = min(prompt, room)
            prompts[number] -= chunk
            room -= chunk
            computed += chunk
            if chunk and not prompts[number]:
                drawing.append(number)
        for number in drawing:
            left[number] -= 1
        yield Work(computed, len(drawing))


def floor_s(shape: Shape, steps: Iterator[Work], best: Peak, weight_bytes: int) -> float:
    """Each step reads the layers' and the last matrix once, or computes, whichever is longer."""
    read_s = (shape.layer_weights + shape.head_weights) * weight_bytes / best.bytes_s
    return sum(max(read_s, _flops(shape, work) / best.flops) for work in steps)


def _flops(shape: Shape, work: Work) -> float:
    return 2.0 * (shape.layer_weights * work.tokens + shape.head_weights * work.drawn)
