"""A small random model whose context holds the prompts and answers of B1."""

from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.engine.models import Shape
from benchmarks.engine.served_model import with_tokenizer
from benchmarks.engine.weights import write_llama

SHAPE: Final = Shape(layers=2, hidden=128, intermediate=352, heads=2, kv_heads=1)
CONTEXT_TOKENS: Final = 4_096
SEED: Final = 11


def long_context_model() -> Path:
    """Its folder, with a tokenizer."""
    write = partial(write_llama, shape=SHAPE, context_tokens=CONTEXT_TOKENS, seed=SEED)
    return with_tokenizer("b1-long-context", write)
