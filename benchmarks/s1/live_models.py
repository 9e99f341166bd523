"""The models that S1 serves live, the requests that they get, and how their predictor learns."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final

from msgspec import Struct

from benchmarks.s1.ladder import FIXED_BATCH
from engine.checkpoints.catalogue import DEMO_FOLDER
from engine.demo.jobs import JOBS
from gateway.demo.apps import SAMPLED_APPS, SAMPLED_TEMPERATURE
from gateway.evaluation.corpus import CorpusLine
from gateway.generation.text.tokenizer import ChatTokenizer

PAGE_TOKENS: Final = 16
SMOLLM2_TEMPERATURE: Final = 0.7  # as its own lengths were measured
SMOLLM2_TOP_P: Final = 0.95


class Question(Struct, frozen=True):
    """What an app asks, and how the answer is sampled."""

    app: str
    instruction: str
    input: str
    temperature: float = 0.0
    top_p: float = 1.0


class LiveModel(Struct, frozen=True):
    """A served model, with the longest prompt and answer of its requests.

    `backlog` is the number of requests that wait from the start, `arrivals` that of those at a
    rate.
    """

    name: str
    folder: Path
    max_prompt: int
    max_answer: int
    backlog: int
    arrivals: int
    calibration_s: float

    @property
    def settings(self) -> dict[str, object]:
        """The `LMAAS_*` settings: KV memory for a batch of fixed size at its largest.

        Prefixes are not shared: a batch in lock step cannot. Predictions are always trusted.
        """
        row_pages = -(-(self.max_prompt + self.max_answer) // PAGE_TOKENS) + 1  # + a step in flight
        return {
            "model": self.folder.absolute(),
            "model_name": self.name,
            "page_tokens": PAGE_TOKENS,
            "kv_tokens": FIXED_BATCH * row_pages * PAGE_TOKENS,
            "host_kv_tokens": 0,
            "prefix_sharing": "false",
            "fixed_batch": FIXED_BATCH,
            "tau_floor": -1,
            "max_connections": 4_000,
        }

    def fits(self, question: Question, tokenizer: ChatTokenizer) -> bool:
        """Whether the prompt is within `max_prompt`."""
        messages = [
            {"role": "system", "content": question.instruction},
            {"role": "user", "content": question.input},
        ]
        return len(tokenizer.encode_chat(messages)) <= self.max_prompt


def demo_model(*, quick: bool) -> LiveModel:
    """The demo model: 0.9 million parameters, answers of 2 to about 340 tokens."""
    return LiveModel(
        name="lmaas-demo",
        folder=DEMO_FOLDER,
        max_prompt=176,
        max_answer=352,
        backlog=1 + FIXED_BATCH * (20 if quick else 70),  # the first request starts alone
        arrivals=80 if quick else 400,
        calibration_s=8.0 if quick else 30.0,
    )


def smollm2(folder: Path, *, quick: bool) -> LiveModel:
    """SmolLM2-135M-Instruct."""
    return LiveModel(
        name="smollm2",
        folder=folder,
        max_prompt=128,
        max_answer=100 if quick else 200,
        backlog=1 + FIXED_BATCH * (1 if quick else 12),
        arrivals=8 if quick else 64,
        calibration_s=8.0 if quick else 30.0,
    )


def demo_questions(seed: int) -> Iterator[Question]:
    """Endless questions of the demo model's jobs, of which it was trained on others."""
    rng = Random(seed)
    while True:
        asked = rng.choice(JOBS).draw(rng)
        temperature = SAMPLED_TEMPERATURE if asked.job in SAMPLED_APPS else 0.0
        yield Question(asked.job, asked.instruction, asked.question, temperature)


def text_questions(lines: Iterable[CorpusLine], seed: int) -> Iterator[Question]:
    """Every line once, the apps in random turns, each with the same number while it has lines."""
    rng = Random(seed)
    by_app: dict[str, list[CorpusLine]] = {}
    for line in lines:
        by_app.setdefault(line.app, []).append(line)
    for own in by_app.values():
        rng.shuffle(own)
    while by_app:
        for app in rng.sample(sorted(by_app), len(by_app)):
            yield question_of(by_app[app].pop())
            if not by_app[app]:
                del by_app[app]


def question_of(line: CorpusLine) -> Question:
    """A line of the texts, as SmolLM2 is asked."""
    return Question(line.app, line.instruction, line.input, SMOLLM2_TEMPERATURE, SMOLLM2_TOP_P)


def take(model: LiveModel, questions: Iterator[Question], count: int) -> Sequence[Question]:
    """The first `count` of the questions that fit the model's longest prompt."""
    tokenizer = ChatTokenizer(model.folder)
    return list(islice((each for each in questions if model.fits(each, tokenizer)), count))
