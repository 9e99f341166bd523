"""Creates a random model: `python -m benchmarks.engine.weights SIZE FOLDER`."""

import sys
from pathlib import Path
from typing import Final

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.engine.models import SHAPES, Shape
from benchmarks.engine.workload import VOCABULARY

SEED: Final = 7
CONTEXT_TOKENS: Final = 2048


def make(size: str, folder: Path) -> None:
    """Write the model of a size to a folder, which is created atomically."""
    unfinished = folder.with_suffix(".unfinished")
    write_llama(unfinished, SHAPES[size], context_tokens=CONTEXT_TOKENS, seed=SEED)
    unfinished.rename(folder)


def write_llama(folder: Path, shape: Shape, *, context_tokens: int, seed: int) -> None:
    """Write a Llama of this shape with random weights, which the seed determines."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=64,
        max_position_embeddings=context_tokens,
        bos_token_id=None,
        eos_token_id=None,  # only the length limit ends an answer
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
