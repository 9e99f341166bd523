"""The form of an answer is kept in history, and each form is learned apart."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from gateway.database.errors import Sessions
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.features.features import NAMES
from gateway.prediction.messages import FORMS, Form, PredictionRequest
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.prediction.serving.warm_start import recent_outcomes
from gateway.prediction.training.samples import read_samples
from models.base import new_id

MODEL = "forms"
FEATURES = np.zeros(len(NAMES), dtype=np.float32).tobytes()
START = datetime(2026, 11, 1, tzinfo=UTC)
TOKENS: dict[str | None, int] = {"free": 90, "json": 30, "tool": 15, None: 90}


@pytest.fixture
def records(a_record: Callable[..., Record]) -> list[Record]:
    """Ended requests of every form in turn; of the last the form is not known."""
    return [
        a_record(
            arrived_at=START + timedelta(seconds=number),
            id=new_id(),
            model=MODEL,
            features=FEATURES,
            form=form,
            generation_tokens=tokens,
        )
        for number, (form, tokens) in enumerate(list(TOKENS.items()) * 30)
    ]


def medians(
    predictor: LengthPredictor, a_prediction_request: Callable[..., PredictionRequest]
) -> dict[Form, float]:
    return {
        form: predictor.predict(
            a_prediction_request(tenant=UUID(int=1), app=UUID(int=2), form=form)
        ).newest.median
        for form in FORMS
    }


async def test_predictions_go_by_earlier_answers_of_the_same_form_also_after_a_restart(
    sessions: Sessions,
    records: list[Record],
    a_prediction_request: Callable[..., PredictionRequest],
    tmp_path: Path,
) -> None:
    history = HistoryWriter(sessions, tmp_path)
    predictor = LengthPredictor(model=MODEL, model_hash="h", budget_s=1.0, sessions=sessions)
    for record in records:
        history.record(record)
        predictor.observe(record)
    await history.flush()
    before = medians(predictor, a_prediction_request)
    assert before == pytest.approx({form: TOKENS[form] for form in FORMS}, rel=0.3)
    again = LengthPredictor(model=MODEL, model_hash="h", budget_s=1.0, sessions=sessions)
    await again.start()
    try:
        assert medians(again, a_prediction_request) == pytest.approx(before, rel=1e-6)
    finally:
        await again.close()


async def test_training_reads_the_form_and_takes_an_unknown_one_for_free(
    sessions: Sessions, records: list[Record], tmp_path: Path
) -> None:
    history = HistoryWriter(sessions, tmp_path)
    for record in records:
        history.record(record)
    await history.flush()
    samples, _ = await read_samples(sessions, MODEL)
    assert samples.inputs.forms is not None
    found = [FORMS[code] for code in samples.inputs.forms.tolist()]
    assert found == [record.form or "free" for record in records]
    read = await recent_outcomes(sessions, MODEL)
    assert [row.outcome.form for row in read] == found
