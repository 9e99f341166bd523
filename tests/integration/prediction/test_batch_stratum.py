"""Lines of batch jobs teach the predictor of lines, and move nothing of interactive requests."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn
from uuid import UUID

import pytest
from sqlalchemy import delete

from gateway.database.errors import Sessions
from gateway.errors import Unavailable
from gateway.history.record import BATCH_TIER, Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.messages import Prediction, PredictionRequest
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.prediction.serving.process_client import PredictorClient
from gateway.prediction.serving.warm_start import count_since, recent_outcomes
from models import RequestRecord

MODEL = "stratum"


def outcomes(a_record: Callable[..., Record], tier: str, tokens: int, count: int) -> list[Record]:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    return [
        a_record(
            arrived_at=start + timedelta(seconds=n),
            id=UUID(int=(tokens << 32) + n),
            model=MODEL,
            service_tier=tier,
            generation_tokens=tokens,
        )
        for n in range(count)
    ]


async def test_lines_outcomes_serve_lines_alone(
    sessions: Sessions,
    a_record: Callable[..., Record],
    a_prediction_request: Callable[..., PredictionRequest],
) -> None:
    predictor = LengthPredictor(model=MODEL, model_hash="h", budget_s=1.0, sessions=sessions)

    def asked(*, batch: bool) -> Prediction:
        request = a_prediction_request(
            tenant=UUID(int=1), app=UUID(int=2), end_user=None, max_tokens=400, batch=batch
        )
        return predictor.predict(request).newest

    for record in outcomes(a_record, "default", 40, 100):
        predictor.observe(record)
    before = asked(batch=False)
    assert asked(batch=True).quantiles == before.quantiles  # an app's first lines
    for record in outcomes(a_record, BATCH_TIER, 200, 300):
        predictor.observe(record)
    after = asked(batch=False)
    assert (after.quantiles, after.source) == (before.quantiles, "app")
    line = asked(batch=True)
    assert line.source == "app"
    assert abs(line.median - 200) < abs(line.median - 40)


def test_texts_of_lines_are_not_embedded(
    sessions: Sessions,
    a_prediction_request: Callable[..., PredictionRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedded: list[bool] = []

    def away(_client: PredictorClient, *, embed: bool, **_given: object) -> NoReturn:
        embedded.append(embed)
        raise Unavailable("the process is not asked")

    monkeypatch.setattr(PredictorClient, "request_score", away)
    predictor = LengthPredictor(model=MODEL, model_hash="h", budget_s=1.0, sessions=sessions)
    for batch in (False, True):
        predictor.predict(a_prediction_request(batch=batch))
    assert embedded == [True, False]


async def test_history_is_read_by_stratum(
    sessions: Sessions, a_record: Callable[..., Record], tmp_path: Path
) -> None:
    writer = HistoryWriter(sessions, tmp_path)
    for record in (*outcomes(a_record, "flex", 40, 5), *outcomes(a_record, BATCH_TIER, 200, 9)):
        writer.record(record)
    await writer.flush()
    asked = await recent_outcomes(sessions, MODEL, limit=8)
    lines = await recent_outcomes(sessions, MODEL, limit=8, batch=True)
    assert [row.outcome.tokens for row in asked] == [40] * 5
    assert [row.outcome.tokens for row in lines] == [200] * 8
    assert await count_since(sessions, MODEL, None, limit=100) == 5
    async with sessions() as session, session.begin():
        await session.execute(delete(RequestRecord).where(RequestRecord.model == MODEL))
