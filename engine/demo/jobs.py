"""The jobs of the demo model: each an application with its instruction, inputs and answers."""

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from engine.demo.lexicon import (
    ADJECTIVES,
    NAMES,
    NOUNS,
    OPERATORS,
    VARIABLES,
    VELAN,
    VERBS,
    WORDS,
    spoken,
)

MAX_DIARY_DAYS: Final = 34  # days; about 300 tokens


class Exchange(NamedTuple):
    """One question with its correct answer."""

    job: str
    instruction: str
    question: str
    answer: str


class Job(NamedTuple):
    """An application: two wordings of its instruction and a generator of (question, answer).

    `make(rng, size)` generates an input of `size` items; `max_size` is the largest trained size.
    `open` jobs have no single correct answer, and a length that does not depend on the input.
    """

    name: str
    instructions: tuple[str, str]
    make: Callable[[Random, int], tuple[str, str]]
    max_size: int
    open: bool = False

    def draw(self, rng: Random, scale: float = 1.0) -> Exchange:
        """An exchange of uniform random size up to `scale * max_size`."""
        size = rng.randint(1, max(2, round(self.max_size * scale)))
        question, answer = self.make(rng, size)
        return Exchange(self.name, rng.choice(self.instructions), question, answer)


def _translate(rng: Random, size: int) -> tuple[str, str]:
    words = rng.sample(WORDS, size)
    return " ".join(words), " ".join(VELAN[word] for word in words)


def _glossary(rng: Random, size: int) -> tuple[str, str]:
    words = rng.sample(WORDS, size)
    return " ".join(words), "; ".join(f"{word} = {VELAN[word]}" for word in words)


def _spell(rng: Random, size: int) -> tuple[str, str]:
    words = rng.sample(WORDS, size)
    return " ".join(words), "; ".join(f"{word}: {' '.join(word)}" for word in words)


def _numbers(rng: Random, size: int) -> tuple[str, str]:
    numbers = rng.sample(range(100), size)
    return " ".join(map(str, numbers)), ", ".join(map(spoken, numbers))


def _statement(rng: Random, target: str) -> tuple[str, str]:
    left = rng.choice([name for name in VARIABLES if name != target])
    kind = rng.randrange(4)
    if kind == 0:
        number = rng.randrange(100)
        return f"{target} = {number}", f"{target} becomes the number {number}"
    if kind == 1:
        return f"{target} = {left}", f"{target} becomes a copy of {left}"
    symbol, word = rng.choice(list(OPERATORS.items()))
    right = str(rng.randrange(100)) if kind % 2 else rng.choice(VARIABLES)
    return f"{target} = {left} {symbol} {right}", f"{target} becomes {left} {word} {right}"


def _comment(rng: Random, size: int) -> tuple[str, str]:
    pairs = [_statement(rng, target) for target in rng.sample(VARIABLES, size)]
    return "; ".join(code for code, _ in pairs), ". ".join(text for _, text in pairs)


def _sentence(rng: Random) -> str:
    return (
        f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} {rng.choice(VERBS)} {rng.choice(NOUNS)}"
    )


def _roster(rng: Random, size: int) -> tuple[str, str]:
    speakers = rng.sample(NAMES, size)
    return ". ".join(f"{name}: {_sentence(rng)}" for name in speakers), ", ".join(speakers)


def _diary(rng: Random, _: int) -> tuple[str, str]:
    """A diary of 1 … 34 days; the request does not state the number."""
    subject = f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    max_days = rng.choices((3, 12, MAX_DIARY_DAYS), weights=(4, 4, 2))[0]
    days = rng.randint(1, max_days)
    lines = [
        f"day {day}: the {subject} {rng.choice(VERBS)} {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
        for day in range(1, days + 1)
    ]
    return f"a diary of the {subject}", ". ".join(lines) + "."


JOBS: Final = (
    Job(
        "translate",
        ("Translate into Velan, word by word.", "Give the Velan for this text."),
        _translate,
        40,
    ),
    Job(
        "glossary",
        (
            "Make a glossary of these words in Velan.",
            "List each word beside its Velan translation.",
        ),
        _glossary,
        30,
    ),
    Job("spell", ("Spell out every word.", "Write the letters of each word."), _spell, 20),
    Job("numbers", ("Write the numbers in words.", "Read these numbers aloud."), _numbers, 30),
    Job(
        "comment",
        ("Explain this code, one statement at a time.", "Write a comment for the code."),
        _comment,
        16,
    ),
    Job(
        "roster",
        ("Who speaks in this dialogue?", "List the speakers in order."),
        _roster,
        18,
    ),
    Job(
        "diary",
        ("Invent what is asked for.", "You are a storyteller. Write the story."),
        _diary,
        1,
        open=True,
    ),
)
