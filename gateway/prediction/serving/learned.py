"""What outcomes have taught: lengths, and how predictions from them and of versions are off."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from gateway.history.record import Record
from gateway.prediction.adaptation.adaptation import Adaptation, ScoredOutcome
from gateway.prediction.adaptation.conformal import CALIBRATED_LEVELS
from gateway.prediction.adaptation.source_bands import SourceBands
from gateway.prediction.features.features import (
    FEATURE_VERSION,
    USER_INPUT_COLUMN,
    from_bytes,
    raw_quantiles,
)
from gateway.prediction.features.length_history import LengthHistory, LengthOutcome, RequestHistory
from gateway.prediction.messages import PredictionRequest, known_form
from gateway.prediction.serving.warm_start import HistoryRow, ended_at

ROWS_PER_TURN: Final = 16


class Learned(Struct):
    """What outcomes taught: lengths, and corrections of predictions from them and of versions."""

    history: LengthHistory = field(default_factory=LengthHistory)
    bands: SourceBands = field(default_factory=SourceBands)
    adaptations: dict[UUID, Adaptation] = field(default_factory=dict)


def row_of(record: Record) -> HistoryRow:
    """The row of history that a record becomes, as far as it teaches anything."""
    outcome = LengthOutcome(
        record.tenant_id,
        record.app_id,
        record.end_user,
        record.generation_tokens,
        record.censored,
        ended_at(record.arrived_at, record.response_s),
        known_form(record.form),
    )
    return HistoryRow(
        outcome,
        record.predictor_id,
        record.feature_version,
        record.features,
        record.prediction_source,
        record.first_scored,
    )


def history_of(learned: Learned, request: PredictionRequest) -> RequestHistory:
    """The earlier lengths that concern a request."""
    return learned.history.history(
        tenant=request.tenant,
        app=request.app,
        end_user=request.end_user,
        max_tokens=request.max_tokens,
        now=time.time(),
        form=request.form,
    )


async def learn_rows(adaptation: Adaptation, rows: Sequence[HistoryRow]) -> None:
    """`learn_row` of each, a few in each turn of the event loop: one takes up to 0.1 ms."""
    for number, row in enumerate(rows, 1):
        learn_row(adaptation, row)
        if number % ROWS_PER_TURN == 0:
            await asyncio.sleep(0)


def calibrate_history(bands: SourceBands, row: HistoryRow) -> None:
    """Learn from an outcome that the length history predicted; others have no such quantiles."""
    if row.predictor is not None or not _usable(row):
        return
    raw = raw_quantiles(from_bytes(row.features))
    if any(raw[1:]):  # 0 in rows of earlier releases and of imported logs
        calibrate(bands, row.source, row.outcome, raw)


def calibrate(
    bands: SourceBands, source: str, outcome: LengthOutcome, raw: Sequence[float]
) -> None:
    """Learn from an outcome and its ln quantiles, the upper ones last."""
    if not _cut_off_at_once(outcome):
        upper = raw[-len(CALIBRATED_LEVELS) :]
        bands.learn(
            source,
            outcome.app,
            upper,
            outcome.tokens,
            censored=outcome.censored,
            form=outcome.form,
        )


def _usable(row: HistoryRow) -> bool:
    """Whether the row has features of this version and was not cut off before its first token."""
    known = row.feature_version == FEATURE_VERSION and bool(row.features)
    return known and not _cut_off_at_once(row.outcome)


def _cut_off_at_once(outcome: LengthOutcome) -> bool:
    """Whether the answer was cut off before its first token, and so teaches nothing."""
    return outcome.censored and not outcome.tokens


def learn_row(adaptation: Adaptation, row: HistoryRow) -> None:
    """Let a version learn from an outcome that it predicted; others are ignored.

    Where it had predicted it before it read embeddings too, both predictions are calibrated.
    """
    outcome = row.outcome
    if not _usable(row):
        return
    vector = from_bytes(row.features)
    log_uil, raw = float(vector[USER_INPUT_COLUMN]), raw_quantiles(vector)
    found = ScoredOutcome(outcome.stratum, log_uil, raw, outcome.tokens, outcome.censored)
    if row.first_scored:
        first = tuple(np.frombuffer(row.first_scored, dtype=np.float32).tolist())
        adaptation.two_stages |= first != raw
        adaptation.learn_first(replace(found, raw=first))
    adaptation.learn(found)
