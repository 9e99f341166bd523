"""Hidden states of a model at the end of prefill, by transformers; cached in `.bench`."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.harness.paths import CACHE
from benchmarks.own_lengths.lengths_file import line_id
from gateway.evaluation.corpus import CorpusLine

FOLDER: Final = CACHE / "prefill-head"
MAX_BATCH_TOKENS: Final = 2_048  # of a forward pass, padding included
STEPS: Final = 30  # that are timed, after as many that are not

States = NDArray[np.float16]


class PrefillModel:
    """A decoder of a folder in bfloat16, on the CPU."""

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._file = FOLDER / f"{folder.name}.npz"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self._model.eval()

    @property
    def layers(self) -> dict[str, int]:
        """The layers whose output is kept."""
        count = int(self._model.config.num_hidden_layers)
        return {"middle": count // 2, "two thirds": 2 * count // 3, "last": count}

    def states(self, lines: Sequence[CorpusLine], say: Callable[[str], None]) -> States:
        """The last prompt token's state at each of `layers`: (n, layers, width)."""
        known = self._read()
        missing = [line for line in lines if line_id(line) not in known]
        if missing:
            say(f"prefill of {len(missing)} prompts")
            known.update(self._computed(missing))
            self._file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(self._file, names=np.array(list(known)), states=np.stack([*known.values()]))
        return np.stack([known[line_id(line)] for line in lines])

    def step_s(self) -> float:
        """The median time of a decode step of one sequence, in seconds."""
        with torch.inference_mode():
            cache = self._model(torch.ones((1, 1), dtype=torch.long), use_cache=True)
            times = []
            for _ in range(2 * STEPS):
                began = time.perf_counter()
                cache = self._model(
                    torch.ones((1, 1), dtype=torch.long), past_key_values=cache.past_key_values
                )
                times.append(time.perf_counter() - began)
        return float(np.median(times[STEPS:]))

    def _read(self) -> dict[str, States]:
        if not self._file.exists():
            return {}
        with np.load(self._file) as stored:
            return dict(zip(stored["names"].tolist(), stored["states"], strict=True))

    def _computed(self, lines: Sequence[CorpusLine]) -> Iterator[tuple[str, States]]:
        layers = [*self.layers.values()]
        prompts = {line_id(line): self._prompt(line) for line in lines}
        for names in batches({name: len(prompt) for name, prompt in prompts.items()}):
            longest = max(len(prompts[name]) for name in names)
            tokens = torch.zeros((len(names), longest), dtype=torch.long)
            mask = torch.zeros_like(tokens)
            for row, name in enumerate(names):
                own = torch.tensor(prompts[name])
                tokens[row, : len(own)], mask[row, : len(own)] = own, 1
            with torch.inference_mode():
                hidden = self._model.model(
                    tokens, attention_mask=mask, output_hidden_states=True, use_cache=False
                ).hidden_states
            for row, name in enumerate(names):
                last = len(prompts[name]) - 1
                kept = torch.stack([hidden[layer][row, last] for layer in layers])
                yield name, kept.float().numpy().astype(np.float16)

    def _prompt(self, line: CorpusLine) -> list[int]:
        messages = [
            {"role": "system", "content": line.instruction},
            {"role": "user", "content": line.input},
        ]
        rendered = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return list(self._tokenizer(rendered, add_special_tokens=False).input_ids)


def batches(lengths: dict[str, int]) -> Iterator[list[str]]:
    """Names in batches of similar length, each of MAX_BATCH_TOKENS with padding, or of one."""
    batch: list[str] = []
    for name, length in sorted(lengths.items(), key=lambda each: each[1]):
        if batch and (len(batch) + 1) * length > MAX_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch
