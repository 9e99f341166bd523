"""The engine's greedy tokens equal those of transformers' `generate`."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random

import pytest
import torch
from msgspec import structs
from transformers import AutoModelForCausalLM

import engine.demo
from engine.protocol import Sequence, SetMode

DEMO = Path(engine.demo.__file__).parent / "lmaas-demo"
FAMILIES = [
    "llama", "llama-tied", "qwen2", "qwen2-mixed", "qwen3", "mistral", "gemma", "gpt2", "gpt_neox",
]  # fmt: skip


def some_sequences(vocabulary: int, count: int) -> list[Sequence]:
    """Sequences of mixed prompt and generation lengths."""
    random = Random(5)
    return [
        Sequence(
            id=f"s{number}",
            prompt=[random.randrange(vocabulary) for _ in range(random.choice([1, 3, 17, 41]))],
            max_tokens=(tokens := random.choice([1, 7, 23])),
            reserve=tokens,
        )
        for number in range(count)
    ]


SEQUENCES = some_sequences(97, 8)


def generated_by_transformers(folder: Path, sequences: list[Sequence]) -> dict[str, list[int]]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    return {
        sequence.id: model.generate(
            torch.tensor([sequence.prompt]),
            attention_mask=torch.ones(1, len(sequence.prompt), dtype=torch.long),
            max_new_tokens=sequence.max_tokens,
            do_sample=False,
        )[0, len(sequence.prompt) :].tolist()
        for sequence in sequences
    }


@pytest.fixture(scope="module")
def expected(model_folder: Callable[[str], Path]) -> Callable[[str], dict[str, list[int]]]:
    """transformers' tokens for `SEQUENCES`, generated once per family."""
    return lru_cache(lambda family: generated_by_transformers(model_folder(family), SEQUENCES))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("step_tokens", "page_tokens"), [(2, 3), (5, 16), (33, 1), (512, 4)])
def test_no_chunking_or_page_size_changes_a_token(
    family: str, step_tokens: int, page_tokens: int, a_run: Callable, expected: Callable
) -> None:
    run = a_run(family, pages=400 // page_tokens, page_tokens=page_tokens, step_tokens=step_tokens)
    assert run.all(SEQUENCES) == expected(family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("step_tokens", [5, 64])
@pytest.mark.parametrize("host_pages", [0, 30], ids=["recompute", "swap"])
@pytest.mark.parametrize("sharing", [False, True], ids=["apart", "shared"])
def test_no_preemption_or_sharing_changes_a_token(
    family: str, step_tokens: int, host_pages: int, sharing: bool, a_run: Callable,
    expected: Callable,
) -> None:  # fmt: skip
    sequences = [structs.replace(sequence, reserve=1) for sequence in SEQUENCES]
    run = a_run(family, pages=17, step_tokens=step_tokens, host_pages=host_pages, sharing=sharing)
    assert run.all(sequences) == expected(family)
    assert run.preempted


@pytest.mark.parametrize("family", FAMILIES)
def test_lock_step_changes_no_token(family: str, a_run: Callable, expected: Callable) -> None:
    run = a_run(family, pages=60)
    run.loop.put(SetMode("lockstep"))
    assert run.all(SEQUENCES) == expected(family)
    assert run.returned


def test_a_continued_sequence_gets_the_remaining_tokens(
    a_run: Callable, model_folder: Callable
) -> None:
    [sequence] = [s for s in some_sequences(97, 8) if s.max_tokens == 23][:1]
    complete = generated_by_transformers(model_folder("llama"), [sequence])[sequence.id]
    continued = Sequence("c", sequence.prompt, 23, reserve=23, generated=complete[:9])
    assert a_run().all([continued]) == {"c": complete[9:]}


def test_scattered_pages_change_no_token(a_run: Callable) -> None:
    sequences = some_sequences(97, 6)
    packed_low = a_run(pages=400).all(sequences)
    scattered = a_run(pages=400)
    low = scattered.memory.pool.allocate(300)
    assert scattered.all(sequences) == packed_low
    scattered.memory.pool.release(low)


def test_the_demo_model_gives_the_tokens_of_generate(a_run: Callable) -> None:
    sequences = some_sequences(600, 12)
    run = a_run(DEMO, pages=24, page_tokens=16, step_tokens=64)
    assert run.all(sequences) == generated_by_transformers(DEMO, sequences)
