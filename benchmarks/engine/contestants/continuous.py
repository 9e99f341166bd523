"""transformers' continuous batching, with the best settings found for a CPU."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from benchmarks.engine.contestants.pipe import Answer, Task, Tokens, serve

SEQUENCES: Final = 64  # running at once
PAGE: Final = 32
PAGES: Final = 2048  # 65,536 tokens: enough that nothing is evicted
READ_TIMEOUT_S: Final = 600.0


@contextmanager
def prepare(arguments: Namespace) -> Iterator[Answer]:
    """Answers all requests at once, in steps of at most `--step-tokens` tokens."""
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    manager = model.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1),
        ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=PAGES,
            max_batch_tokens=arguments.step_tokens,
            max_requests_per_batch=SEQUENCES,
            allow_block_sharing=False,  # each round repeats the same prompts
            auto_switch_to_flash=False,
        ),
    )
    manager.start()

    def answer(task: Task) -> Tokens:
        names = [
            manager.add_request(prompt, max_new_tokens=tokens, eos_token_id=-1)
            for prompt, tokens in task
        ]
        found: dict[str, list[int]] = {}
        while len(found) < len(names):
            result = manager.get_result(timeout=READ_TIMEOUT_S)
            if result is None or result.error:
                raise RuntimeError(f"continuous batching: {result and result.error}")
            if result.is_finished():
                found[result.request_id] = list(result.generated_tokens)
        return [found[name] for name in names]

    try:
        yield answer
    finally:
        manager.stop(hard_stop=True)


if __name__ == "__main__":
    serve(prepare, "--step-tokens")
