"""The engine's greedy tokens are those of transformers' `generate`."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM

import engine.demo
from engine.protocol import Sequence

DEMO = Path(engine.demo.__file__).parent / "lmaas-demo"
FAMILIES = [
    "llama", "llama-tied", "qwen2", "qwen2-mixed", "qwen3", "mistral", "gemma", "gpt2", "gpt_neox",
]  # fmt: skip


def some_sequences(vocabulary: int, count: int, reserve: int | None = None) -> list[Sequence]:
    """Sequences of mixed prompt and generation lengths."""
    random = Random(5)
    return [
        Sequence(
            id=f"s{number}",
            prompt=[random.randrange(vocabulary) for _ in range(random.choice([1, 3, 17, 41]))],
            max_tokens=(tokens := random.choice([1, 7, 23])),
            reserve=reserve or tokens,
        )
        for number in range(count)
    ]


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


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_tokens_of_generate(
    family: str, a_run: Callable, model_folder: Callable
) -> None:
    sequences = some_sequences(97, 8)
    run = a_run(family, step_tokens=16)
    assert run.all(sequences) == generated_by_transformers(model_folder(family), sequences)


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("step_tokens", [2, 5, 33, 512])
@pytest.mark.parametrize("page_tokens", [1, 3, 16])
def test_chunking_and_page_size_change_no_token(
    family: str, step_tokens: int, page_tokens: int, a_run: Callable, model_folder: Callable
) -> None:
    sequences = some_sequences(97, 5)
    run = a_run(family, pages=256 // page_tokens, page_tokens=page_tokens, step_tokens=step_tokens)
    assert run.all(sequences) == generated_by_transformers(model_folder(family), sequences)


@pytest.mark.parametrize("family", ["llama", "qwen2-mixed", "gpt2"])
def test_preemption_changes_no_token(family: str, a_run: Callable, model_folder: Callable) -> None:
    sequences = some_sequences(97, 10, reserve=1)
    run = a_run(family, pages=16, page_tokens=4, step_tokens=16)
    assert run.all(sequences) == generated_by_transformers(model_folder(family), sequences)
    assert run.preempted


def test_continued_elsewhere_gives_the_rest_of_the_tokens(
    a_run: Callable, model_folder: Callable
) -> None:
    [sequence] = [s for s in some_sequences(97, 8) if s.max_tokens == 23][:1]
    whole = generated_by_transformers(model_folder("llama"), [sequence])[sequence.id]
    continued = Sequence("c", sequence.prompt, 23, reserve=23, generated=whole[:9])
    assert a_run().all([continued]) == {"c": whole[9:]}


def test_scattered_pages_change_no_token(a_run: Callable) -> None:
    sequences = some_sequences(97, 6)
    packed_low = a_run(pages=400).all(sequences)
    scattered = a_run(pages=400)
    low = scattered.memory.pool.take(300)
    assert scattered.all(sequences) == packed_low
    scattered.memory.pool.give_back(low)


def test_demo_model_gives_the_tokens_of_generate(a_run: Callable) -> None:
    sequences = some_sequences(600, 12)
    run = a_run(DEMO, pages=24, page_tokens=16, step_tokens=64)
    assert run.all(sequences) == generated_by_transformers(DEMO, sequences)
