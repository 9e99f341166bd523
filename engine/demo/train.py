"""Trains the demo model from scratch on generated text: `python -m engine.demo.train OUT`."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import click
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.demo.examples import EXAMPLES, save_examples
from engine.demo.jobs import JOBS, Exchange
from engine.demo.tokenizer import END, PAD, build_tokenizer

IGNORED: Final = -100
MATRIX_DIMS: Final = 2  # dimensions
TRAINING_SEED: Final = 20_261
VALIDATION_SEED: Final = 77_003
RAMP_FRACTION: Final = 0.35  # share of the steps in which inputs grow to their full length
DECAY_FRACTION: Final = 0.4  # share of the steps in which the learning rate decays
REPORT_INTERVAL_S: Final = 60


class TrainingBatch(NamedTuple):
    """Right-padded rows of one length: tokens and their labels, (rows, tokens) each."""

    tokens: Tensor
    labels: Tensor
    jobs: list[str]


def configuration(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A Llama of four layers with grouped queries and tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class Encoder:
    """Turns exchanges into token rows and batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._pad = tokenizer.convert_tokens_to_ids(PAD)
        self._end = tokenizer.convert_tokens_to_ids(END)

    def rows(self, exchanges: list[Exchange]) -> list[tuple[list[int], int]]:
        """Each exchange as (tokens of prompt, answer and end; length of the prompt)."""
        prompts = [
            f"<|system|>{item.instruction}<|user|>{item.question}<|assistant|>"
            for item in exchanges
        ]
        core = self._tokenizer.backend_tokenizer
        prompt_rows = [row.ids for row in core.encode_batch(prompts)]
        answer_rows = [row.ids for row in core.encode_batch([item.answer for item in exchanges])]
        return [
            ([*prompt, *answer, self._end], len(prompt))
            for prompt, answer in zip(prompt_rows, answer_rows, strict=True)
        ]

    def batch(self, rows: list[tuple[list[int], int]], jobs: list[str]) -> TrainingBatch:
        """Rows padded to the longest; labels are the answers alone."""
        width = max(len(tokens) for tokens, _ in rows)
        tokens = torch.full((len(rows), width), self._pad)
        labels = torch.full((len(rows), width), IGNORED)
        for index, (row, prompt_tokens) in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
            labels[index, prompt_tokens : len(row)] = torch.tensor(row[prompt_tokens:])
        return TrainingBatch(tokens, labels, jobs)

    def batches(self, exchanges: list[Exchange], budget: int) -> Iterator[TrainingBatch]:
        """Batches of similar length of at most `budget` tokens, padding included."""
        encoded = zip(self.rows(exchanges), (item.job for item in exchanges), strict=True)
        group: list[tuple[list[int], int]] = []
        jobs: list[str] = []
        for row, job in sorted(encoded, key=lambda pair: len(pair[0][0])):
            if group and (len(group) + 1) * len(row[0]) > budget:
                yield self.batch(group, jobs)
                group, jobs = [], []
            group.append(row)
            jobs.append(job)
        yield self.batch(group, jobs)


def batches_from(encoder: Encoder, step: int, steps: int, budget: int) -> Iterator[TrainingBatch]:
    """Shuffled batches from pools of inputs, which grow until `RAMP_FRACTION` of the training.

    A pool depends only on the step at which it starts, so a resumed training continues unchanged.
    """
    while True:
        rng = Random(TRAINING_SEED + step)
        scale = min(1.0, 0.15 + 0.85 * step / (RAMP_FRACTION * steps))
        pool = [rng.choice(JOBS).draw(rng, scale) for _ in range(1024)]
        batches = list(encoder.batches(pool, budget))
        rng.shuffle(batches)
        yield from batches
        step += len(batches)


def logits_and_labels(model: LlamaForCausalLM, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
    """Logits (answer tokens, vocabulary) and the labels they should predict."""
    answer_mask = batch.labels[:, 1:] != IGNORED
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    return model.lm_head(hidden[:, :-1][answer_mask]), batch.labels[:, 1:][answer_mask]


@torch.no_grad()
def exactness(model: LlamaForCausalLM, batches: list[TrainingBatch]) -> dict[str, float]:
    """Share of answers, by job, whose every token is the most probable one."""
    right: dict[str, list[bool]] = {job.name: [] for job in JOBS if not job.open}
    for batch in batches:
        logits, labels = logits_and_labels(model, batch)
        hits = iter(
            (logits.argmax(-1) == labels).split((batch.labels[:, 1:] != IGNORED).sum(1).tolist())
        )
        for job, hit in zip(batch.jobs, hits, strict=True):
            right[job].append(bool(hit.all()))
    return {job: sum(hits) / len(hits) for job, hits in right.items() if hits}


class Training:
    """A model with its optimisers: Muon for the blocks' matrices, AdamW for the rest."""

    def __init__(self, model: LlamaForCausalLM, peak: float) -> None:
        self.model = model
        self.step = 0
        self._peak = peak
        block = [p for p in model.model.layers.parameters() if p.ndim == MATRIX_DIMS]
        taken = {id(p) for p in block}
        rest = [p for p in model.parameters() if id(p) not in taken]
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(block, lr=peak, adjust_lr_fn="match_rms_adamw", weight_decay=0.02),
            torch.optim.AdamW(rest, lr=peak, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def learn(self, batch: TrainingBatch, steps: int) -> float:
        """One update towards the batch's answers; its mean loss in nats a token."""
        loss = nn.functional.cross_entropy(*logits_and_labels(self.model, batch))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        done = self.step / steps
        warmup = min(1.0, (self.step + 1) / 100)
        decay = min(1.0, (1.0 - done) / DECAY_FRACTION)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self._peak * warmup * max(decay, 0.01)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def save(self, path: Path) -> None:
        """Save the state for a resumed training."""
        state = [optimiser.state_dict() for optimiser in self._optimisers]
        torch.save({"step": self.step, "model": self.model.state_dict(), "optimisers": state}, path)

    def resume(self, path: Path) -> None:
        """Continue from a saved state."""
        saved = torch.load(path, weights_only=True)
        self.step = saved["step"]
        self.model.load_state_dict(saved["model"])
        for optimiser, state in zip(self._optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--steps", default=11_000, show_default=True, help="updates in all")
@click.option("--budget", default=4_000, show_default=True, help="tokens a step, padding included")
@click.option("--peak", default=3e-3, show_default=True, help="highest learning rate")
@click.option("--threads", default=2, show_default=True)
@click.option(
    "--state", type=click.Path(path_type=Path), help="checkpoint: saved every minute, resumed from"
)
def main(out: Path, steps: int, budget: int, peak: float, threads: int, state: Path | None) -> None:
    """Train, report exact match by job each minute, save the model to OUT."""
    torch.manual_seed(TRAINING_SEED)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # denormal probabilities would slow steps down a hundredfold
    tokenizer = build_tokenizer()
    training = Training(LlamaForCausalLM(configuration(tokenizer)), peak)
    if state and state.exists():
        training.resume(state)
    training.model.model.compile(dynamic=True)
    encoder = Encoder(tokenizer)
    validation_rng = Random(VALIDATION_SEED)
    held_out = [job.draw(validation_rng) for job in JOBS if not job.open for _ in range(40)]
    validation = list(encoder.batches(held_out, budget))
    started = last_report = time.monotonic()
    losses: list[float] = []
    for batch in batches_from(encoder, training.step, steps, budget):
        losses.append(training.learn(batch, steps))
        done = training.step >= steps
        if done or time.monotonic() - last_report > REPORT_INTERVAL_S:
            last_report = time.monotonic()
            scores = exactness(training.model, validation).items()
            click.echo(
                f"{(last_report - started) / 60:5.1f} min  step {training.step}/{steps}  "
                f"loss {sum(losses) / len(losses):.4f}  "
                + " ".join(f"{job} {share:.0%}" for job, share in scores)
            )
            losses.clear()
            if state:
                training.save(state)
        if done:
            break
    save(training.model, tokenizer, out)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads.

    `apps.json` lists an application for each job, `examples.jsonl` example questions.
    """
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    save_examples(out / EXAMPLES)
    apps = [{"name": job.name, "instruction": job.instructions[0]} for job in JOBS]
    (out / "apps.json").write_text(json.dumps(apps, indent=2) + "\n")


if __name__ == "__main__":
    main()
