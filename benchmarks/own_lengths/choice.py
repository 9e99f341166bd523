"""Which lines are asked, how often, and with which seeds."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise, zip_longest
from random import Random
from typing import Final

from msgspec import Struct

from benchmarks.own_lengths.lengths_file import Kind, line_id
from gateway.evaluation.corpus import CorpusLine, Split

LINES: Final = 100  # of an app, at least
AGAIN: Final = 60  # lines of an app that are answered again: the noise floor
GREEDY: Final = 20  # lines of an app that are answered greedily too
OTHER_FORM: Final = 40  # lines of an app that are answered as JSON, and by a required call, too
OFFERED: Final = 5  # lines of an app that are answered with a tool offered, too
SEED_DIGITS: Final = 12  # hex digits of a line's id that seed its answer
SEED_STRIDE: Final = 3  # of lines' seeds: the committed answers have these
KINDS: Final[tuple[Kind, ...]] = ("sampled", "again", "greedy", "json", "tool", "offered")
COUNTS: Final[dict[Kind, int | None]] = {
    "sampled": None,
    "again": AGAIN,
    "greedy": GREEDY,
    "json": OTHER_FORM,
    "tool": OTHER_FORM,
    "offered": OFFERED,
}


class Ask(Struct, frozen=True):
    """An answer to ask for."""

    line: CorpusLine
    kind: Kind
    id: str

    @property
    def key(self) -> tuple[str, Kind]:
        """What identifies the answer."""
        return self.id, self.kind

    @property
    def split(self) -> Split:
        """The line's own; `train` if it has none."""
        return self.line.split or "train"

    @property
    def seed(self) -> int:
        """The seed of its sampling: the same in every run."""
        return int(self.id[:SEED_DIGITS], 16) * SEED_STRIDE + KINDS.index(self.kind)


def asks(
    lines: Iterable[CorpusLine], answered: Collection[str] = (), count: int = LINES
) -> list[Ask]:
    """`count` lines of each app, or all that there are, and all that were answered before.

    Sampled ones come first, then their repetitions, then the others, and in each kind the apps take
    turns: a run that is stopped has answers of every app.
    """
    by_app: dict[str, list[CorpusLine]] = {}
    for line in lines:
        by_app.setdefault(line.app, []).append(line)
    chosen = [_chosen(own, answered, count) for own in by_app.values()]
    return [
        Ask(line, kind, line_id(line))
        for kind in KINDS
        for turn in zip_longest(*(own[: COUNTS[kind]] for own in chosen))
        for line in turn
        if line is not None
    ]


def spread(lines: Sequence[CorpusLine], count: int, random: Random) -> Iterator[CorpusLine]:
    """A random line of each of `count` equal parts of the list; all if it has no more."""
    count = min(count, len(lines))
    bounds = [len(lines) * number // count for number in range(count + 1)] if count > 0 else []
    for start, end in pairwise(bounds):
        yield lines[random.randrange(start, end)]


def _chosen(lines: list[CorpusLine], answered: Collection[str], count: int) -> list[CorpusLine]:
    """An app's lines, in random order: those of each split in proportion, spread over the file."""
    random = Random(lines[0].app)
    known = [line for line in lines if line_id(line) in answered]
    further = [line for line in lines if line_id(line) not in answered]
    valid = [line for line in further if line.split == "valid"]
    train = [line for line in further if line.split != "valid"]
    missing = max(count - len(known), 0)
    of_valid = round(missing * len(valid) / max(len(further), 1))
    chosen = [
        *random.sample(known, len(known)),
        *spread(valid, of_valid, random),
        *spread(train, missing - of_valid, random),
    ]
    return random.sample(chosen, len(chosen)) if not known else chosen
