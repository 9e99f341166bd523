"""transformers' `generate` on static batches, first come, first served."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.engine.contestants.pipe import Answer, Task, Tokens, serve

PAD_ID = 0


@contextmanager
def prepare(arguments: Namespace) -> Iterator[Answer]:
    """Answers batch by batch; each is left-padded and runs until its longest answer ends."""
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()

    def answer(task: Task) -> Tokens:
        batches = [
            task[start : start + arguments.batch] for start in range(0, len(task), arguments.batch)
        ]
        return [tokens for batch in batches for tokens in _generate(model, batch)]

    yield answer


def _generate(model: Any, batch: Task) -> Tokens:
    width = max(len(prompt) for prompt, _ in batch)
    padded = [[PAD_ID] * (width - len(prompt)) + prompt for prompt, _ in batch]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in batch]
    rows = model.generate(
        input_ids=torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        max_new_tokens=max(tokens for _, tokens in batch),
        do_sample=False,
        pad_token_id=PAD_ID,
    )
    answers = rows[:, width:].tolist()
    return [row[:tokens] for row, (_, tokens) in zip(answers, batch, strict=True)]


if __name__ == "__main__":
    serve(prepare, "--batch")
