"""Trains the predictor of a served model before its runs, from the model's own answers."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from benchmarks.live.learning import import_log
from benchmarks.live.tenant import Tenant
from benchmarks.own_lengths.lengths_file import OwnLength, line_id
from benchmarks.s1.live_models import LiveModel, Question, question_of
from benchmarks.s1.live_traffic import plan, send
from gateway.cli.admin.client import AdminClient
from gateway.demo.training import train
from gateway.evaluation.corpus import CorpusLine
from gateway.prediction.lifecycle.log_format import LogLine

TRAINING_SEED: Final = 3


class KnownLength(NamedTuple):
    """A line that the model has answered, and the length of the answer."""

    line: CorpusLine
    own: OwnLength


def known_lengths(lines: Iterable[CorpusLine], lengths: Iterable[OwnLength]) -> list[KnownLength]:
    """The lines that the model has answered, each with its sampled answer."""
    found = {each.line: each for each in lengths if each.kind == "sampled"}
    answered = ((line, found.get(line_id(line))) for line in lines)
    return [KnownLength(line, own) for line, own in answered if own is not None]


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
    import_log(admin, (log_line(model, tenant, each) for each in known))
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
        tokens=min(known.own.answer_tokens, model.max_answer),
        max_tokens=model.max_answer,
        temperature=question.temperature,
        top_p=question.top_p,
        cut_off=known.own.cut_off or known.own.answer_tokens > model.max_answer,
    )
