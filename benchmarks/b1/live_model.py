"""A small random model whose context holds the prompts and answers of B1."""

from pathlib import Path
from typing import Final

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.engine.served_model import with_tokenizer
from benchmarks.engine.workload import VOCABULARY

CONTEXT_TOKENS: Final = 4_096
SEED: Final = 11


def long_context_model() -> Path:
    """Its folder, with a tokenizer."""
    return with_tokenizer("b1-long-context", _write)


def _write(folder: Path) -> None:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=None,  # only the length limit ends an answer
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
