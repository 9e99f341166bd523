"""The texts with the lengths of a model's own answers, and their folds."""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from msgspec.structs import replace

from benchmarks.own_lengths.lengths_file import MAX_TOKENS, OwnLength, line_id
from gateway.errors import InvalidRequest
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.corpus import CorpusLine, MeasuredLength

FOLDS: Final = 5


def measured_lines(texts: Iterable[CorpusLine], lengths: Iterable[OwnLength]) -> list[CorpusLine]:
    """The lines that have a sampled answer, with its length.

    InvalidRequest if the texts lack one of these lines.
    """
    sampled = {each.line: each for each in lengths if each.kind == "sampled"}
    lines = {name: line for line in texts if (name := line_id(line)) in sampled}
    if missing := len(sampled) - len(lines):
        raise InvalidRequest(f"{missing} of {len(sampled)} answered lines are not in the texts")
    return [replace(line, measured=measured(sampled[name])) for name, line in lines.items()]


def folds(
    requests: EvaluationRequests, count: int = FOLDS
) -> Iterator[tuple[EvaluationRequests, EvaluationRequests]]:
    """Requests to train on and to test on; every request is tested once.

    Each app is dealt out evenly, in the order of the lines' ids.
    """
    ids = np.array([line_id(line) for line in requests.lines])
    order = np.lexsort((ids, requests.names))
    fold_of = np.empty(len(requests), np.intp)
    fold_of[order] = np.arange(len(requests)) % count
    for fold in range(count):
        yield (
            requests.rows(np.flatnonzero(fold_of != fold)),
            requests.rows(np.flatnonzero(fold_of == fold)),
        )


def measured(length: OwnLength) -> MeasuredLength:
    """The length of an answer as a corpus line has it."""
    return MeasuredLength(
        input_tokens=length.input_tokens,
        prompt_tokens=length.prompt_tokens,
        answer_tokens=max(length.answer_tokens, 1),
        max_tokens=MAX_TOKENS,
    )
