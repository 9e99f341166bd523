"""The apps, each with its instruction and its questions; the same in every run."""

from collections.abc import Callable
from functools import partial
from itertools import starmap
from random import Random
from typing import Final

from msgspec import Struct

from gateway.demo.english import vocabulary as words

SEED: Final = 11
TIME_SHARE: Final = 0.7  # of sentences that say when
REASON_SHARE: Final = 0.6  # of sentences that say why
RESULT_SHARE: Final = 0.3  # of sentences that another follows
QUESTIONS_PER_JOB: Final = 120


class Job(Struct, frozen=True):
    """An app: its instruction, and `make`, which writes one question."""

    name: str
    instruction: str
    make: Callable[[Random], str]


def text_of(rng: Random, shortest: int, longest: int) -> str:
    """A text of `shortest` to `longest` sentences, each about something else."""
    length = rng.randint(shortest, longest)
    people, actions = rng.sample(words.PEOPLE, length), rng.sample(words.ACTIONS, length)
    return " ".join(starmap(partial(_sentence, rng), zip(people, actions, strict=True)))


def _sentence(rng: Random, person: str, action: str) -> str:
    """A sentence of 6 to 25 words, or two."""
    parts = [person, action]
    if rng.random() < TIME_SHARE:
        parts.append(rng.choice(words.TIMES))
    if rng.random() < REASON_SHARE:
        parts.append(rng.choice(words.REASONS))
    text = " ".join(parts)
    result = f" {rng.choice(words.RESULTS)}." if rng.random() < RESULT_SHARE else ""
    return f"{text[0].upper()}{text[1:]}.{result}"


def with_mistakes(rng: Random) -> str:
    """One to six sentences with spelling and grammar mistakes."""
    text = text_of(rng, 1, 6)
    return " ".join(words.MISSPELT.get(word, word) for word in text.split(" "))


def closed_question(rng: Random) -> str:
    """A question to answer with yes or no."""
    form, subjects = rng.choice(words.CLAIMS)
    return form.format(rng.choice(subjects))


def story_idea(rng: Random) -> str:
    """What a story is to be about."""
    return f"A story about {rng.choice(words.HEROES)}, {rng.choice(words.PLACES)}."


def term(rng: Random) -> str:
    """A term to explain."""
    return f"What is {rng.choice(words.TERMS)}?"


JOBS: Final = (
    Job("translate", "Translate the text into French. Answer with the translation only.",
        lambda rng: text_of(rng, 1, 4)),
    Job("correct", "Correct the mistakes in the text. Answer with the corrected text only.",
        with_mistakes),
    Job("summarise", "Summarise the text in one short sentence.", lambda rng: text_of(rng, 5, 12)),
    Job("title", "Write a title of at most six words for the text. Answer with the title only.",
        lambda rng: text_of(rng, 3, 8)),
    Job("keywords", "List three to five keywords of the text, separated by commas.",
        lambda rng: text_of(rng, 3, 8)),
    Job("yes-no", "Answer the question with one word: yes or no.", closed_question),
    Job("explain", "Explain the term to a child in two or three sentences.", term),
    Job("story", "Write a very short story of three or four sentences.", story_idea),
)  # fmt: skip


def questions(job: Job) -> list[str]:
    """Up to `QUESTIONS_PER_JOB` different questions for an app."""
    rng = Random(f"{SEED} {job.name}")
    return list(dict.fromkeys(job.make(rng) for _ in range(QUESTIONS_PER_JOB)))
