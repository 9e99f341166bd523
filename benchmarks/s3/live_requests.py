"""What S3 live asks: questions with one right answer each, and logs that state wrong lengths."""

from collections.abc import Callable, Sequence
from random import Random
from statistics import mean
from typing import Final

from msgspec import Struct

from benchmarks.live.open_loop import TimedBody
from engine.checkpoints.catalogue import DEMO_FOLDER
from engine.demo.jobs import JOBS
from gateway.prediction.lifecycle.log_format import LogLine

MAX_TOKENS: Final = 512  # that a client allows, and the rule `maximum` reserves
UNDERSTATED: Final = 5  # times


class Question(Struct, frozen=True):
    """A question of a job: the job's instruction, and the input."""

    instruction: str
    input: str


def questions(count: int, seed: int) -> list[Question]:
    """The first `count` questions of a seed, of the jobs that have one right answer."""
    rng = Random(seed)
    jobs = [job for job in JOBS if not job.open]
    drawn = [rng.choice(jobs).draw(rng) for _ in range(count)]
    return [Question(each.instruction, each.question) for each in drawn]


def bodies(asked: Sequence[Question], max_tokens: Sequence[int]) -> list[TimedBody]:
    """The questions, all at once, to be answered greedily."""
    return [
        TimedBody(0.0, _body(question, most))
        for question, most in zip(asked, max_tokens, strict=True)
    ]


def _body(question: Question, max_tokens: int) -> dict[str, object]:
    return {
        "model": DEMO_FOLDER.name,
        "messages": [
            {"role": "system", "content": question.instruction},
            {"role": "user", "content": question.input},
        ],
        "max_tokens": max_tokens,
        "temperature": 0,
    }


def fivefold(tokens: Sequence[int]) -> list[int]:
    """A fifth of each length."""
    return [max(1, round(each / UNDERSTATED)) for each in tokens]


def constant(tokens: Sequence[int]) -> list[int]:
    """The mean length for every answer."""
    return [round(mean(tokens))] * len(tokens)


LIES: Final[dict[str, Callable[[Sequence[int]], list[int]]]] = {
    "a fifth": fivefold,
    "constant": constant,
}


def log_of(app: str, asked: Sequence[Question], tokens: Sequence[int]) -> list[LogLine]:
    """A log to import, which states these lengths."""
    return [
        LogLine(
            app=app,
            input=question.input,
            instruction=question.instruction,
            tokens=length,
            max_tokens=MAX_TOKENS,
            temperature=0,
        )
        for question, length in zip(asked, tokens, strict=True)
    ]
