"""Comparison of two versions on the same history, in a child process."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from msgspec.structs import replace

from gateway.database.errors import Sessions
from gateway.errors import Conflict, NotFound
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.features.features import FEATURE_VERSION, NAMES, USER_INPUT_COLUMN
from gateway.prediction.lifecycle.comparison import VersionComparer
from gateway.prediction.model.artefact import AppLine, decode, encode
from models import Predictor
from models.base import new_id
from tests.integration.prediction.conftest import StockedRegistry

APP = UUID(int=1)  # that of the version


@pytest.fixture
def comparison(sessions: Sessions, postgres_url: str) -> VersionComparer:
    return VersionComparer(sessions, database_url=postgres_url)


async def history(
    sessions: Sessions, folder: Path, a_record: Callable[..., Record], rows: int
) -> None:
    """Answers as long as their inputs, as the version learned it."""
    writer, random = HistoryWriter(sessions, folder), np.random.default_rng(3)
    for _ in range(rows):
        features = np.zeros(len(NAMES), dtype=np.float32)
        features[USER_INPUT_COLUMN] = random.uniform(2, 5)
        writer.record(
            a_record(
                model="demo",
                app_id=APP,
                features=features.tobytes(),
                feature_version=FEATURE_VERSION,
                generation_tokens=round(float(np.exp(features[USER_INPUT_COLUMN]))),
                max_tokens=2_000,
            )
        )
    await writer.flush()


async def test_better_version_scores_better_on_the_same_rows(
    *,
    comparison: VersionComparer,
    registry: StockedRegistry,
    sessions: Sessions,
    tmp_path: Path,
    a_version: Callable[..., Predictor],
    a_record: Callable[..., Record],
    artefact: bytes,
) -> None:
    await history(sessions, tmp_path, a_record, 300)
    decoded = decode(artefact, model_hash="abc")
    flat_line = {APP: AppLine(4.0, 0.0, 1.0, 120)}
    blind = encode(replace(decoded, lines=flat_line))
    good, bad = await registry.add(a_version()), await registry.add(a_version(artefact=blind))
    compared = await comparison.compare(good.id, bad.id)
    assert compared.why_not is None
    assert compared.scorecards is not None
    first, second = compared.scorecards
    assert (compared.rows, compared.unseen) == (300, True)
    assert first.rows == second.rows == 300
    assert first.tau > 0.9 > second.tau
    assert first.pinball < second.pinball


async def test_versions_of_different_models_and_unknown_ones_are_not_compared(
    comparison: VersionComparer, registry: StockedRegistry, a_version: Callable[..., Predictor]
) -> None:
    first = await registry.add(a_version())
    with pytest.raises(NotFound):
        await comparison.compare(first.id, new_id())
    with pytest.raises(Conflict, match="different models"):
        await comparison.compare(first.id, (await registry.add(a_version(model_hash="x"))).id)
