"""Why history has too few rows to train on: the rows that do not count, by reason."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import text

from gateway.database.errors import Sessions, translated
from gateway.errors import Conflict
from gateway.prediction.features.features import FEATURE_VERSION

MIN_TRAINING_ROWS: Final = 100  # complete answers

# A row has the first of these reasons that applies to it.
REASONS: Final = {
    "opted_out": "of tenants that opted out of learning",
    "forced": "with a length forced by ignore_eos or min_tokens",
    "erased": "stored without features (erased, or the tenant had opted out)",
    "other_release": "with features of another release",
    "too_old": "older than that",
    "no_token": "without any token",
    "cut_off": "cut off by max_tokens",
    "stopped": "stopped early by their clients or by an error",
    "other_model": "of other models",
    "unusable": "with numbers that cannot be",
}

_COUNT: Final = text("""
    SELECT reason, count(*) AS rows FROM (
        SELECT CASE
            WHEN model <> :model THEN 'other_model'
            WHEN tenant_id IN (SELECT id FROM tenants WHERE NOT learning) THEN 'opted_out'
            WHEN forced THEN 'forced'
            WHEN feature_version = 0 THEN 'erased'
            WHEN feature_version <> :version THEN 'other_release'
            WHEN arrived_at < :since THEN 'too_old'
            WHEN generation_tokens = 0 THEN 'no_token'
            WHEN generation_tokens >= max_tokens THEN 'cut_off'
            ELSE 'stopped'
        END AS reason
        FROM requests
        WHERE model <> :model OR feature_version <> :version OR arrived_at < :since OR censored
            OR tenant_id IN (SELECT id FROM tenants WHERE NOT learning)
    ) AS excluded GROUP BY reason
""")


async def count_excluded(
    sessions: Sessions, model: str, since: datetime, unusable: int = 0
) -> dict[str, int]:
    """The rows of history that are no complete answers to train on, by `REASONS`.

    `unusable` rows were found already. Reads all of history: for training runs that fail.
    """
    given = {"model": model, "version": FEATURE_VERSION, "since": since}
    with translated():
        async with sessions() as session:
            counted = {row.reason: row.rows for row in await session.execute(_COUNT, given)}
    if unusable:
        counted["unusable"] = unusable
    return {reason: counted[reason] for reason in REASONS if reason in counted}


def too_few_rows(
    model: str, complete: int, excluded: Mapping[str, int], days: float | None = None
) -> Conflict:
    """The error for fewer than MIN_TRAINING_ROWS complete answers, of the last `days` if given."""
    period = "" if days is None else f" from the last {days:g} days"
    message = (
        f"training needs at least {MIN_TRAINING_ROWS} complete answers of model {model}{period}, "
        f"found {complete}"
    )
    reasons = [f"{rows} {REASONS[reason]}" for reason, rows in excluded.items() if rows]
    return Conflict(f"{message}; not counted: {', '.join(reasons)}" if reasons else message)
