"""A random model of 30 million parameters: its steps take about 10 ms on a core."""

from pathlib import Path
from typing import Final

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.engine.served_model import with_tokenizer
from benchmarks.engine.workload import VOCABULARY

CONTEXT_TOKENS: Final = 1_024
SEED: Final = 13


def random_model() -> Path:
    """Its folder, with a tokenizer."""
    return with_tokenizer("b3", _write)


def _write(folder: Path) -> None:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1_408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=None,  # only the length limit ends an answer
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
