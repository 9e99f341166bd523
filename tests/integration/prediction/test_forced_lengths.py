"""Lengths that a request's parameters forced are in history, and teach nothing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np

from gateway.database.errors import Sessions
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.features.features import NAMES
from gateway.prediction.lifecycle.drift_series import DriftSeries
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.prediction.serving.warm_start import count_since, newest_start, recent_outcomes
from gateway.prediction.training.row_counts import count_excluded
from gateway.prediction.training.samples import read_samples
from models.base import new_id

MODEL = "forced"
FEATURES = np.zeros(len(NAMES), dtype=np.float32).tobytes()
START = datetime(2026, 11, 1, tzinfo=UTC)


def outcomes(a_record: Callable[..., Record], tokens: int, *, forced: bool) -> list[Record]:
    records = [
        a_record(
            arrived_at=START + timedelta(seconds=second + 100 * forced),
            id=new_id(),
            model=MODEL,
            features=FEATURES,
            generation_tokens=tokens,
            prediction_source="model",
            predictor_id=UUID(int=7),
            forced=forced,
        )
        for second in range(20)
    ]
    return [record.without_features() if forced else record for record in records]


def test_forced_length_changes_no_prediction(
    sessions: Sessions,
    a_record: Callable[..., Record],
    a_prediction_request: Callable[..., PredictionRequest],
) -> None:
    predictor = LengthPredictor(model=MODEL, model_hash="h", budget_s=1.0, sessions=sessions)
    request = a_prediction_request(tenant=UUID(int=1), app=UUID(int=2))
    for record in outcomes(a_record, 40, forced=False):
        predictor.observe(record)
    before = predictor.predict(request).newest
    for record in outcomes(a_record, 400, forced=True):
        predictor.observe(record)
    after = predictor.predict(request)
    assert after.newest.quantiles == before.quantiles
    predictor.observe(outcomes(a_record, 400, forced=True)[0], after)
    assert after.records == after.late == []


async def test_history_that_is_learned_from_has_no_forced_lengths(
    sessions: Sessions, a_record: Callable[..., Record], tmp_path: Path
) -> None:
    writer = HistoryWriter(sessions, tmp_path)
    rows = outcomes(a_record, 40, forced=False) + outcomes(a_record, 400, forced=True)
    for record in rows:
        writer.record(record)
    await writer.flush()
    recent = await recent_outcomes(sessions, MODEL, limit=30)
    assert [row.outcome.tokens for row in recent] == [40] * 20
    assert await count_since(sessions, MODEL, None, limit=100) == 20
    assert await newest_start(sessions, MODEL, 1) == START + timedelta(seconds=19)
    samples, report = await read_samples(sessions, MODEL)
    assert set(samples.tokens) == {40}
    assert report["tenants"][str(UUID(int=1))]["erased"] == 0
    assert await count_excluded(sessions, MODEL, START) == {"forced": 20}
    (bucket,) = await DriftSeries(sessions, MODEL).show(
        app=None, window=timedelta(hours=1), buckets=1, until=START + timedelta(hours=1)
    )
    assert bucket.quality is not None
    assert bucket.quality.outcomes == 20
