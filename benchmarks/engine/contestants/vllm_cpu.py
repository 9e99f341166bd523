"""vLLM's CPU build; runs in an environment of its own (`benchmarks.engine.installation`)."""

import importlib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.engine.contestants.pipe import Answer, Task, Tokens, serve

STEP_TOKENS: Final = 2048
KV_MIB: Final = 3 * 2**10  # enough that nothing is preempted
CONTEXT_TOKENS: Final = 2048  # that of the models


@contextmanager
def prepare(arguments: Namespace) -> Iterator[Answer]:
    """Answers all requests, at most `--sequences` at a time.

    `--caching` is 0 where each round repeats the same prompts.
    """
    vllm = importlib.import_module("vllm")
    model = load(
        arguments.folder,
        "float32",
        arguments.sequences,
        compiled=bool(arguments.compiled),
        kv_bytes=arguments.kv_mib << 20,
        prefix_caching=bool(arguments.caching),
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


def load(
    folder: str,
    dtype: str,
    sequences: int,
    *,
    compiled: bool,
    kv_bytes: int = KV_MIB << 20,
    prefix_caching: bool = False,
) -> Any:
    """The engine of vLLM for a model, with the best settings found for a CPU."""
    return importlib.import_module("vllm").LLM(
        model=folder,
        skip_tokenizer_init=True,
        dtype=dtype,
        enforce_eager=not compiled,
        max_model_len=CONTEXT_TOKENS,
        max_num_seqs=sequences,
        max_num_batched_tokens=STEP_TOKENS,
        kv_cache_memory_bytes=kv_bytes,
        enable_prefix_caching=prefix_caching,
        disable_log_stats=True,
    )


if __name__ == "__main__":
    serve(prepare, "--sequences", "--compiled", "--kv-mib", "--caching")
