"""Exact match of a demo model on unseen inputs: `python -m engine.demo.exactness FOLDER`."""

from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import click
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_utils import PreTrainedModel

from engine.demo.jobs import JOBS, Exchange, Job

SEED: Final = 90_011  # distinct from the seeds of training and validation
MAX_ANSWER_TOKENS: Final = 400
BATCH_SIZE: Final = 50


class JobScore(NamedTuple):
    """Results of a job: correct answers, answers ended by the model, and mean lengths in tokens."""

    total: int
    correct: int
    ended: int
    input_tokens: float
    answer_tokens: float


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--inputs", default=200, show_default=True, help="unseen inputs for each job")
def main(folder: Path, inputs: int) -> None:
    """Answer each job's questions greedily and print a table of exact matches."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    rng = Random(SEED)
    click.echo("| job | inputs | exact | ended by itself | input tokens | answer tokens | ratio |")
    click.echo("|---|--:|--:|--:|--:|--:|--:|")
    for job in JOBS:
        score = measure(model, tokenizer, job, [job.draw(rng) for _ in range(inputs)])
        exact = "open" if job.open else f"{score.correct / score.total:.1%}"
        click.echo(
            f"| {job.name} | {score.total} | {exact} | {score.ended / score.total:.1%} "
            f"| {score.input_tokens:.1f} | {score.answer_tokens:.1f} "
            f"| {score.answer_tokens / score.input_tokens:.2f} |"
        )


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    job: Job,
    exchanges: list[Exchange],
) -> JobScore:
    """Answer all exchanges: greedily, or sampled for an open job, as in service."""
    correct = ended = answer_tokens = 0
    for start in range(0, len(exchanges), BATCH_SIZE):
        group = exchanges[start : start + BATCH_SIZE]
        for exchange, tokens in zip(group, answers(model, tokenizer, job, group), strict=True):
            ended += len(tokens) < MAX_ANSWER_TOKENS
            answer_tokens += len(tokens)
            correct += tokenizer.decode(tokens, skip_special_tokens=True) == exchange.answer
    total = len(exchanges)
    read = sum(len(tokenizer(item.question).input_ids) for item in exchanges)
    return JobScore(total, correct, ended, read / total, answer_tokens / total)


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, job: Job, group: list[Exchange]
) -> list[list[int]]:
    """The tokens of each answer, without the end token."""
    torch.manual_seed(SEED)
    prompts = tokenizer.apply_chat_template(
        [
            [
                {"role": "system", "content": item.instruction},
                {"role": "user", "content": item.question},
            ]
            for item in group
        ],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0}
    generated = model.generate(
        **prompts,
        max_new_tokens=MAX_ANSWER_TOKENS,
        **(sampling if job.open else {"do_sample": False}),
    )[:, prompts["input_ids"].shape[1] :]
    return [
        [token for token in row if token not in (tokenizer.eos_token_id, tokenizer.pad_token_id)]
        for row in generated.tolist()
    ]


if __name__ == "__main__":
    main()
