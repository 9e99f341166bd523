"""Prompts of OASST1 with the tokens of their answers, and the splits that published scores have.

The folder `oasst1` of the texts holds `prompts.csv.gz` (prompt, output_tokens) and `splits.json`:
for each seed the row numbers to train and to test on, and the published method's scores of the
test rows.
"""

import csv
import gzip
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from gateway.errors import NotFound
from gateway.evaluation.corpus import CorpusLine, MeasuredLength
from gateway.evaluation.lengths import count_words

SHORT_BELOW: Final = 200  # tokens
LONG_FROM: Final = 800
TEST_SHARE: Final = 0.2
MAX_TOKENS: Final = 16_384  # above every answer
APP: Final = "oasst1"


class Split(Struct, frozen=True):
    """Row numbers to train and to test on; `published_long` scores the test rows, if known."""

    seed: int
    train: list[int]
    test: list[int]
    published_long: list[float] | None = None


def read_prompts(folder: Path) -> list[CorpusLine]:
    """The prompts, each a line with its measured length. NotFound without the file."""
    file = folder / "prompts.csv.gz"
    if not file.exists():
        raise NotFound(f"there is no file {file}")
    with gzip.open(file, "rt", encoding="utf-8", newline="") as rows:
        found = [(row["prompt"], int(row["output_tokens"])) for row in csv.DictReader(rows)]
    words = count_words([prompt for prompt, _ in found]).tolist()
    return [
        CorpusLine(
            app=APP,
            instruction="",
            input=prompt,
            output="?",
            measured=MeasuredLength(
                input_tokens=count,
                prompt_tokens=count,
                answer_tokens=max(tokens, 1),
                max_tokens=MAX_TOKENS,
            ),
        )
        for (prompt, tokens), count in zip(found, words, strict=True)
    ]


def read_splits(folder: Path) -> list[Split]:
    """The splits with published scores. NotFound without the file."""
    file = folder / "splits.json"
    if not file.exists():
        raise NotFound(f"there is no file {file}")
    return msgspec.json.decode(file.read_bytes(), type=list[Split])


def draw_split(tokens: NDArray[np.int64], seed: int) -> Split:
    """A split by the rule of the published ones: stratified by short, medium and long."""
    strata = (tokens >= SHORT_BELOW).astype(int) + (tokens >= LONG_FROM)
    train, test = train_test_split(
        np.arange(len(tokens)), test_size=TEST_SHARE, random_state=seed, stratify=strata
    )
    return Split(seed, train.tolist(), test.tolist())


def pair_accuracy(tokens: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """The share of pairs of a long and a short answer whose long one scores higher; ties half."""
    long, short = scores[tokens >= LONG_FROM], scores[tokens < SHORT_BELOW]
    above = np.sign(long[:, None] - short[None])
    return float((above.mean() + 1) / 2)
