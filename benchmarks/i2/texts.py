"""What is measured: texts, a copy over a distance, facts to find, and questions.

None of the texts was used to choose settings.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from tokenizers import Tokenizer

from benchmarks.i1.texts import text_of_modules

SOURCES: Final = {
    "litestar": ("litestar.app", "litestar.router", "litestar.handlers", "litestar.datastructures"),
    "scipy": ("scipy.stats", "scipy.optimize"),
    "transformers": ("transformers.generation.utils", "transformers.modeling_utils"),
}
FORCED: Final = 512  # tokens after the prompt
COPIED: Final = (512, 64, 128)  # tokens of a passage, repeated as a prompt, and to be copied
COPY_TOKENS: Final = 2_048
NAMES: Final = ("Amsterdam", "Bogota", "Cairo", "Dublin", "Entebbe")
QUESTIONS: Final = (
    "What is this text about?",
    "Which parameters are described, and what do they do?",
    "Which errors may occur?",
    "Summarise the text in two sentences.",
)


class Task(NamedTuple):
    """A text to be read up to `prompt`, and then fed; `judged` are the tokens that count.

    Positions are those of the tokens to be predicted. A task with `answer` goes on with what full
    attention answers, of as many tokens.
    """

    kind: str
    source: str
    context: int
    ids: list[int]
    prompt: int
    judged: list[int]
    answer: int = 0


class Texts:
    """Makes tasks of a model's tokens."""

    def __init__(self, model: Path) -> None:
        self._encoder = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._ids = {
            name: self._encode(text_of_modules(modules)) for name, modules in SOURCES.items()
        }

    def tasks(self, contexts: Sequence[int]) -> Iterator[Task]:
        """All tasks, the short ones first."""
        for context in contexts:
            for source, ids in self._ids.items():
                yield _text(source, context, ids)
            if context == COPY_TOKENS:
                yield from self._others(context)

    def _others(self, context: int) -> Iterator[Task]:
        sources = list(self._ids)
        for source, other in zip(sources, sources[1:] + sources[:1], strict=True):
            yield _copy(source, context, self._ids[source], self._ids[other])
            yield self._facts(source, context)
            yield from self._questions(source, context)

    def _facts(self, source: str, context: int) -> Task:
        """Numbers at five depths of a text, asked for at its end."""
        random = Random(source)
        facts = [
            (f"The number of {name} is", f" {random.randrange(1_000, 10_000)}.") for name in NAMES
        ]
        ids, part = [], context // len(facts)
        for number, (begin, end) in enumerate(facts):
            ids += self._ids[source][number * part : (number + 1) * part]
            ids += self._encode(f"\n\n{begin}{end}\n\n")
        prompt = len(ids)
        judged: list[int] = []
        for begin, end in Random(f"{source} asked").sample(facts, len(facts)):
            ids += self._encode(f"\n\n{begin}")
            digits = self._encode(end)
            judged += range(len(ids), len(ids) + len(digits) - 1)  # without the full stop
            ids += digits
        return Task("facts", source, context, ids, prompt, judged)

    def _questions(self, source: str, context: int) -> Iterator[Task]:
        for question in QUESTIONS:
            asked = self._encode(
                f"<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            )
            begun = self._encode("<|im_start|>user\n")
            ids = [*begun, *self._ids[source][: context - len(asked)], *asked]
            yield Task("answers", source, context, ids, len(ids) - 1, [], answer=64)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids


def _text(source: str, context: int, ids: Sequence[int]) -> Task:
    """A text of the context's length, the last tokens of which are fed."""
    return Task(
        "text",
        source,
        context,
        list(ids[:context]),
        context - FORCED,
        list(range(context - FORCED + 1, context)),
    )


def _copy(source: str, context: int, ids: Sequence[int], other: Sequence[int]) -> Task:
    """A passage, another text, and the beginning of the passage, which is to go on."""
    passage, again, copied = COPIED
    between = context - passage - again - copied
    whole = [*ids[:passage], *other[:between], *ids[: again + copied]]
    prompt = len(whole) - copied
    return Task("copy", source, context, whole, prompt, list(range(prompt + 1, len(whole))))
