"""vLLM's CPU build; runs in an environment of its own (`benchmarks.engine.installation`)."""

import importlib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.engine.contestants.pipe import Answer, Task, Tokens, serve

STEP_TOKENS: Final = 2048
KV_BYTES: Final = 3 * 2**30  # enough that nothing is preempted
CONTEXT_TOKENS: Final = 1024


@contextmanager
def prepare(arguments: Namespace) -> Iterator[Answer]:
    """Answers all requests, at most `--sequences` at a time."""
    vllm = importlib.import_module("vllm")
    model = load(
        arguments.folder, "float32", arguments.sequences, compiled=bool(arguments.compiled)
    )

    def answer(task: Task) -> Tokens:
        outputs = model.generate(
            [{"prompt_token_ids": prompt} for prompt, _ in task],
            [
                vllm.SamplingParams(
                    temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
                )
                for _, tokens in task
            ],
            use_tqdm=False,
        )
        return [list(output.outputs[0].token_ids) for output in outputs]

    yield answer


def load(folder: str, dtype: str, sequences: int, *, compiled: bool) -> Any:
    """The engine of vLLM for a model, with the best settings found for a CPU."""
    return importlib.import_module("vllm").LLM(
        model=folder,
        skip_tokenizer_init=True,
        dtype=dtype,
        enforce_eager=not compiled,
        max_model_len=CONTEXT_TOKENS,
        max_num_seqs=sequences,
        max_num_batched_tokens=STEP_TOKENS,
        kv_cache_memory_bytes=KV_BYTES,
        enable_prefix_caching=False,  # each round repeats the same prompts
        disable_log_stats=True,
    )


if __name__ == "__main__":
    serve(prepare, "--sequences", "--compiled")
