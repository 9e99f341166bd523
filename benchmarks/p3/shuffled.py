"""P3 (d): lengths that have nothing to do with their requests, as the monitor sees them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import numpy as np

from benchmarks.harness.report import Row
from benchmarks.p3.world import Asked, Served, Version, replay
from gateway.evaluation.arrivals import MAX_TOKENS, TENANT, EvaluationRequests
from gateway.history.record import Record
from gateway.prediction.features.features import FEATURE_VERSION
from gateway.prediction.lifecycle.schedule import Schedule
from gateway.prediction.serving.drift import DriftMonitor
from gateway.quantiles import LEVELS, Bools, Floats

BEFORE: Final = 1_000
AFTER: Final = 1_500
ORDERS: Final = 5
VERSION: Final = UUID(int=3)
AT: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Shuffled:
    """After how many shuffled outcomes each order's monitor says untrustworthy; None: never.

    `alarms` are outcomes at which it does so of true lengths, `tau` (n,) what it measures in the
    first order, NaN while it holds too few.
    """

    noticed: list[int | None]
    alarms: int
    lowest: float
    tau: Floats


def shuffled(test: EvaluationRequests, version: Version) -> Shuffled:
    """BEFORE true outcomes, then AFTER whose lengths are dealt out anew; and all as they are."""
    stream = version.asked(test)
    noticed, shown = [], []
    for seed in range(ORDERS):
        random = np.random.default_rng(seed)
        drawn = stream.rows(random.permutation(len(stream))[: BEFORE + AFTER])
        dealt = np.concatenate((drawn.tokens[:BEFORE], random.permutation(drawn.tokens[BEFORE:])))
        taus, trusted = _watched(version, drawn.lasting(dealt))
        lost = np.flatnonzero(~trusted[BEFORE:])
        noticed.append(int(lost[0]) + 1 if len(lost) else None)
        shown.append(taus)
    everything = stream.rows(np.random.default_rng(ORDERS).permutation(len(stream)))
    taus, trusted = _watched(version, everything)
    return Shuffled(noticed, int((~trusted).sum()), float(np.nanmin(taus)), shown[0])


def _watched(version: Version, stream: Asked) -> tuple[Floats, Bools]:
    """The monitor's τ and whether it trusts the version, after each outcome."""
    served = replay(version.adaptation(), stream)
    monitor = DriftMonitor(Schedule().window)
    taus, trusted = np.full(len(stream), np.nan), np.ones(len(stream), dtype=np.bool_)
    for row, app in enumerate(stream.apps):
        monitor.observe(_record(app, served, row))
        quality = monitor.quality()
        taus[row] = np.nan if quality is None else quality.tau
        trusted[row] = monitor.trustworthy(Schedule().tau_floor)
    return taus, trusted


def _record(app: UUID, served: Served, row: int) -> Record:
    quantiles = [float(served.median[row])] * len(LEVELS)
    quantiles[-2:] = [float(served.p90[row])] * 2
    return Record(
        arrived_at=AT,
        id=UUID(int=row),
        tenant_id=TENANT,
        app_id=app,
        api_key_id=TENANT,
        end_user=None,
        model="P3",
        streamed=False,
        prompt_tokens=1,
        user_input_tokens=1,
        max_tokens=MAX_TOKENS,
        temperature=1.0,
        top_p=1.0,
        quantiles=quantiles,
        prediction_source="model",
        predictor_id=VERSION,
        feature_version=FEATURE_VERSION,
        features=b"",
        instruction_hash=b"",
        instruction_embedding=None,
        embedding=None,
        generation_tokens=int(served.tokens[row]),
        finish_reason="stop",
        censored=False,
        policy="",
        batch_id=None,
        batch_size=None,
        preemptions=0,
        queued_s=None,
        first_token_s=None,
        response_s=1.0,
    )


def shuffled_rows(found: Shuffled) -> list[Row]:
    """One row."""
    known = [count for count in found.noticed if count is not None]
    return [
        {
            "shuffled after": BEFORE,
            "orders": ORDERS,
            "noticed in": len(known),
            "noticed after, mean": float(np.mean(known)) if known else None,
            "noticed after, most": max(known, default=None),
            "false alarms": found.alarms,
            "lowest τ unshuffled": found.lowest,
        }
    ]
