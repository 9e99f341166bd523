"""A random model of 30 million parameters: its steps take about 10 ms on a core."""

from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.engine.models import Shape
from benchmarks.engine.served_model import with_tokenizer
from benchmarks.engine.weights import write_llama

SHAPE: Final = Shape(layers=8, hidden=512, intermediate=1_408, heads=8, kv_heads=4)
CONTEXT_TOKENS: Final = 1_024
SEED: Final = 13


def random_model() -> Path:
    """Its folder, with a tokenizer."""
    write = partial(write_llama, shape=SHAPE, context_tokens=CONTEXT_TOKENS, seed=SEED)
    return with_tokenizer("b3", write)
