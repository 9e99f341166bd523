"""What a version has learned from outcomes is there again after a restart of the gateway."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from gateway.database.errors import Sessions
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.features.features import NAMES, USER_INPUT_COLUMN, noted, with_raw_quantiles
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.prediction.serving.warm_start import recent_outcomes

OUTCOMES = 60  # more than calibrate an app by its own
APP = UUID(int=2)
BY_TEXT = (1.0, 2.0, 3.0, 4.0, 5.0, 5.5)  # ln quantiles before embeddings are read, and after
BY_EMBEDDINGS = (3.0, 3.5, 4.0, 4.5, 5.0, 5.5)


def served(predictor: LengthPredictor, version: UUID, *, first: bool) -> tuple[float, ...]:
    levels = BY_TEXT if first else BY_EMBEDDINGS
    adaptation = predictor._interactive.adaptations[version]
    return adaptation.serve(APP, 3.0, levels, 2_000, first=first)


@pytest.mark.parametrize("both_stages", [True, False])
async def test_bands_before_and_after_embeddings_survive_a_restart(
    *,
    both_stages: bool,
    sessions: Sessions,
    artefact: bytes,
    a_record: Callable[..., Record],
    tmp_path: Path,
) -> None:
    version, history = uuid4(), HistoryWriter(sessions, tmp_path)

    async def started() -> LengthPredictor:
        """A predictor without its process, which has no part in it."""
        new = LengthPredictor(model="again", model_hash="abc", budget_s=1.0, sessions=sessions)
        await new.activate(version, artefact)
        return new

    before, start = await started(), datetime(2026, 11, 1, tzinfo=UTC)
    fresh = served(before, version, first=True)
    vector = np.zeros(len(NAMES), dtype=np.float32)
    vector[USER_INPUT_COLUMN] = 3.0
    last = BY_EMBEDDINGS if both_stages else BY_TEXT
    for number in range(OUTCOMES):
        record = a_record(
            id=uuid4(),
            arrived_at=start + timedelta(seconds=number),
            model="again",
            app_id=APP,
            predictor_id=version,
            prediction_source="model",
            features=with_raw_quantiles(vector, last).tobytes(),
            first_scored=noted(BY_TEXT).tobytes(),
            generation_tokens=50 + number,
        )
        history.record(record)
        before.observe(record)
    await history.flush()
    after = await started()
    for first in (True, False):
        found = served(after, version, first=first)
        assert found == pytest.approx(served(before, version, first=first))
        assert found != pytest.approx(fresh, rel=0.01)
    assert after._interactive.adaptations[version].two_stages == both_stages


async def test_damaged_rows_stop_no_start(
    sessions: Sessions, a_record: Callable[..., Record], tmp_path: Path
) -> None:
    writer = HistoryWriter(sessions, tmp_path)
    whole = with_raw_quantiles(np.zeros(len(NAMES), dtype=np.float32), BY_TEXT)
    damaged: list[dict[str, object]] = [
        {"features": b"1234"},
        {"features": np.full(len(NAMES), np.inf, dtype=np.float32).tobytes()},
        {"features": whole.tobytes(), "first_scored": b"12345678"},
        {"generation_tokens": -1},
        {"response_s": 9.0},
        {"response_s": 8.0},
    ]
    for given in damaged:
        writer.record(a_record(id=uuid4(), model="again", **given))
    good = a_record(id=uuid4(), model="again", features=whole.tobytes(), generation_tokens=9)
    writer.record(good)
    await writer.flush()
    async with sessions.begin() as session:
        await session.execute(text("UPDATE requests SET response_s = 'NaN' WHERE response_s = 9"))
        await session.execute(
            text("UPDATE requests SET arrived_at = 'infinity' WHERE response_s = 8")
        )
    with capture_logs() as logs:
        rows = await recent_outcomes(sessions, "again")
    assert [row.outcome.tokens for row in rows] == [9]
    assert [(each["event"], each["rows"]) for each in logs] == [("history_rows_unusable", 6)]
