"""P3 (d): the drift monitor on lengths that are independent of their requests."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import numpy as np

from benchmarks.harness.report import Row
from benchmarks.p3.world import ScoredRequests, ServedQuantiles, TrainedVersion, replay
from gateway.evaluation.arrivals import TENANT, EvaluationRequests
from gateway.evaluation.lengths import MAX_TOKENS
from gateway.history.record import Record
from gateway.prediction.features.features import FEATURE_VERSION
from gateway.prediction.lifecycle.schedule import Schedule
from gateway.prediction.serving.drift import DriftMonitor
from gateway.quantiles import LEVELS, Bools, Floats

OUTCOMES_BEFORE: Final = 1_000
OUTCOMES_AFTER: Final = 1_500
ORDERS: Final = 5
VERSION_ID: Final = UUID(int=3)
ARRIVED_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ShuffledLengths:
    """The detection of shuffled lengths.

    `noticed`: shuffled outcomes until the monitor reports untrustworthy, per order; None: never.
    `alarms`: outcomes with a false alarm on true lengths; `lowest`: the minimum of τ on these.
    `tau` (n,): the monitored τ of the first order, NaN with too few outcomes.
    """

    noticed: list[int | None]
    alarms: int
    lowest: float
    tau: Floats


def shuffled(test: EvaluationRequests, version: TrainedVersion) -> ShuffledLengths:
    """Monitor OUTCOMES_BEFORE true and OUTCOMES_AFTER shuffled outcomes; and all unshuffled."""
    stream = version.score(test)
    noticed, shown = [], []
    for seed in range(ORDERS):
        random = np.random.default_rng(seed)
        drawn = stream.rows(random.permutation(len(stream))[: OUTCOMES_BEFORE + OUTCOMES_AFTER])
        shuffled_tokens = np.concatenate(
            (drawn.tokens[:OUTCOMES_BEFORE], random.permutation(drawn.tokens[OUTCOMES_BEFORE:]))
        )
        taus, trusted = _monitored(version, drawn.with_tokens(shuffled_tokens))
        lost = np.flatnonzero(~trusted[OUTCOMES_BEFORE:])
        noticed.append(int(lost[0]) + 1 if len(lost) else None)
        shown.append(taus)
    everything = stream.rows(np.random.default_rng(ORDERS).permutation(len(stream)))
    taus, trusted = _monitored(version, everything)
    return ShuffledLengths(noticed, int((~trusted).sum()), float(np.nanmin(taus)), shown[0])


def _monitored(version: TrainedVersion, stream: ScoredRequests) -> tuple[Floats, Bools]:
    """The monitor's τ and trust in the version, after each outcome."""
    served = replay(version.adaptation(), stream)
    monitor = DriftMonitor(Schedule().window)
    taus, trusted = np.full(len(stream), np.nan), np.ones(len(stream), dtype=np.bool_)
    for row, app in enumerate(stream.apps):
        monitor.observe(_record(app, served, row))
        quality = monitor.quality()
        taus[row] = np.nan if quality is None else quality.tau
        trusted[row] = monitor.trustworthy(Schedule().tau_floor)
    return taus, trusted


def _record(app: UUID, served: ServedQuantiles, row: int) -> Record:
    quantiles = [float(served.median[row])] * len(LEVELS)
    quantiles[-2:] = [float(served.p90[row])] * 2
    return Record(
        arrived_at=ARRIVED_AT,
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
        predictor_id=VERSION_ID,
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


def shuffled_rows(found: ShuffledLengths) -> list[Row]:
    """One row."""
    known = [count for count in found.noticed if count is not None]
    return [
        {
            "shuffled after": OUTCOMES_BEFORE,
            "orders": ORDERS,
            "noticed in": len(known),
            "noticed after, mean": float(np.mean(known)) if known else None,
            "noticed after, most": max(known, default=None),
            "false alarms": found.alarms,
            "lowest τ unshuffled": found.lowest,
        }
    ]
