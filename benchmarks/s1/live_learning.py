"""Trains the predictor of a served model before its runs, from the model's own answers."""

import csv
import gzip
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from benchmarks.s1.live_models import LiveModel, Question, question_of
from benchmarks.s1.live_traffic import Tenant, plan, send
from gateway.cli.admin.client import AdminClient
from gateway.cli.admin.learning import LINES
from gateway.demo.training import train
from gateway.evaluation.corpus import CorpusLine
from gateway.prediction.lifecycle.log_format import LogLine

LENGTHS_FILE: Final = "smollm2_lengths.csv.gz"  # in the folder of texts
ID_DIGITS: Final = 20
TRAINING_SEED: Final = 3


class KnownLength(Struct, frozen=True):
    """A line that the model has answered, with the length of the answer in tokens."""

    line: CorpusLine
    tokens: int
    cut_off: bool


def known_lengths(data: Path, lines: Iterable[CorpusLine]) -> list[KnownLength]:
    """The lines whose answers' lengths are in the folder's file; none without such a file."""
    file = data / LENGTHS_FILE
    if not file.exists():
        return []
    with gzip.open(file, "rt", encoding="utf-8", newline="") as rows:
        found = {row["line"]: row for row in csv.DictReader(rows)}
    known = []
    for line in lines:
        row = found.get(line_id(line))
        if row is not None:
            known.append(KnownLength(line, int(row["answer_tokens"]), row["finish"] == "length"))
    return known


def learn_served(
    url: str, model: LiveModel, admin: AdminClient, tenant: Tenant, questions: Sequence[Question]
) -> str:
    """Let the model answer these questions, then train on the answers; says what predicts."""
    admin.put("/admin/policy", name="lmaas")
    send(url, model, tenant.keys, plan(questions, TRAINING_SEED))
    return _train(admin, tenant)


def learn_known(
    model: LiveModel, admin: AdminClient, tenant: Tenant, known: Sequence[KnownLength]
) -> str:
    """Import known lengths, then train on them; says what predicts."""
    body = b"\n".join(msgspec.json.encode(log_line(model, tenant, each)) for each in known)
    admin.send("/admin/predictors/samples", body, LINES)
    return _train(admin, tenant)


def _train(admin: AdminClient, tenant: Tenant) -> str:
    trained = train(admin, tenant.id)
    if trained.activated:
        return f"trained on {trained.rows} own answers"
    return f"history of {trained.rows} own answers"  # which a trained version did not beat


def log_line(model: LiveModel, tenant: Tenant, known: KnownLength) -> LogLine:
    """A known length, as if the answer had got the model's `max_tokens`."""
    question = question_of(known.line)
    return LogLine(
        app=tenant.apps[question.app],
        input=question.input,
        instruction=question.instruction,
        tokens=min(known.tokens, model.max_answer),
        max_tokens=model.max_answer,
        temperature=question.temperature,
        top_p=question.top_p,
        cut_off=known.cut_off or known.tokens > model.max_answer,
    )


def line_id(line: CorpusLine) -> str:
    """A line's id in the file of lengths."""
    asked = f"{line.app}\0{line.instruction}\0{line.input}"
    return sha256(asked.encode()).hexdigest()[:ID_DIGITS]
