"""Lines that were answered in every form, once for each form; and both sides of the figure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from msgspec import structs

from benchmarks.own_lengths.lengths_file import Kind, OwnLength, line_id
from benchmarks.own_lengths.measured_lines import measured
from gateway.errors import InvalidRequest
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.corpus import CorpusLine
from gateway.prediction.messages import Form

FOLDS: Final = 5
MIXED: Final[Mapping[Kind, Form]] = {"sampled": "free", "json": "json", "tool": "tool"}


def mixed_lines(
    texts: Iterable[CorpusLine],
    lengths: Iterable[OwnLength],
    form_of: Mapping[Kind, Form] = MIXED,
) -> list[CorpusLine]:
    """Each line that has answers of all these kinds, with the length and form of each of them.

    InvalidRequest if there are none.
    """
    found = {each.key: each for each in lengths}
    lines = [
        structs.replace(line, measured=measured(found[name, kind]), form=form)
        for line in texts
        if all((name := line_id(line), kind) in found for kind in form_of)
        for kind, form in form_of.items()
    ]
    if not lines:
        raise InvalidRequest(
            "no line has answers of all forms; `make bench F=own-lengths` asks for them"
        )
    return lines


def without_forms(requests: EvaluationRequests) -> EvaluationRequests:
    """The same requests, for a predictor that takes every answer for free text."""
    return replace(
        requests,
        lines=[structs.replace(line, form="free") for line in requests.lines],
        inputs=replace(requests.inputs, forms=None),
    )


def folds(requests: EvaluationRequests) -> Iterator[tuple[EvaluationRequests, EvaluationRequests]]:
    """Requests to train on and to test on; the answers to one text are in the same fold."""
    ids = np.array([line_id(line) for line in requests.lines])
    texts = np.unique(np.char.add(np.char.add(requests.names, " "), ids))
    fold_of = {text: number % FOLDS for number, text in enumerate(texts.tolist())}
    own = np.array(
        [fold_of[f"{name} {id_}"] for name, id_ in zip(requests.names, ids, strict=True)]
    )
    for fold in range(FOLDS):
        yield requests.rows(np.flatnonzero(own != fold)), requests.rows(np.flatnonzero(own == fold))
