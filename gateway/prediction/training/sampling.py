"""Draws the rows of a training set from an index, without reading the rows themselves.

`ix_requests_sampling` orders each app's rows by a hash of their id, which is independent of their
length: a ring in random order. A draw takes the rows after a point of the ring given by the seed:
its cost depends on the rows drawn, not on the rows stored, and the same seed draws the same rows.
The population sizes are counted in the same index.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.far_times import MAX_CLOCK_ERROR
from gateway.prediction.training.strata import Quota, Stratum, allocate, newest_from, weights
from gateway.quantiles import Bools, Floats

FOUND, READ, OPTED_OUT, ERASED = "found", "read", "opted_out", "erased"

# Every column is in the index: a further one would make each draw read the rows themselves.
_OF_MODEL: Final = """
    model = :model AND feature_version = :version
    AND feature_version > 0 AND (NOT censored OR generation_tokens > 0)
    AND service_tier IS DISTINCT FROM 'batch'
"""
LEARNABLE: Final = f"{_OF_MODEL} AND arrived_at BETWEEN :since AND :latest"
_COUNT: Final = text(f"""
    SELECT app_id, tenant_id, hard, count(*) AS rows
    FROM requests WHERE {LEARNABLE} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")  # noqa: S608  no value is interpolated
_RING: Final = f"""
    SELECT arrived_at, id, tenant_id, {{lap}} AS lap, uuid_hash_extended(id, 0) AS place
    FROM requests
    WHERE {LEARNABLE} AND app_id = wanted.app AND hard = wanted.hard
      AND uuid_hash_extended(id, 0) {{side}} wanted.start
    ORDER BY uuid_hash_extended(id, 0) LIMIT wanted.quota
"""  # noqa: S608
_NOT_COME: Final = text(
    f"SELECT count(*) FROM requests WHERE {_OF_MODEL} AND arrived_at > :latest"  # noqa: S608
)
_DRAW: Final = text(f"""
    SELECT wanted.app, wanted.hard, drawn.tenant_id, drawn.arrived_at, drawn.id
    FROM unnest(
        CAST(:apps AS uuid[]), CAST(:hards AS bool[]), CAST(:starts AS bigint[]),
        CAST(:quotas AS integer[])
    ) WITH ORDINALITY AS wanted (app, hard, start, quota, number)
    CROSS JOIN LATERAL (
        SELECT * FROM (
            ({_RING.format(lap=0, side=">=")}) UNION ALL ({_RING.format(lap=1, side="<")})
        ) AS ring ORDER BY lap, place LIMIT wanted.quota
    ) AS drawn
    ORDER BY wanted.number, lap, place
""")  # noqa: S608
_ERASED: Final = text("""
    SELECT tenant_id, count(*) AS rows FROM requests
    WHERE model = :model AND feature_version = 0 AND forced IS NOT TRUE GROUP BY 1
""")
_OPTED_OUT: Final = text("SELECT id FROM tenants WHERE NOT learning")


@dataclass(frozen=True, kw_only=True)
class DrawnRows:
    """The keys of n rows, oldest first, and their weights, with mean 1.

    `not_come` others, which are not among those found, arrived at a time that has not come.
    `report` counts, for the training run's row, the rows found, read and excluded per tenant.
    """

    keys: list[tuple[datetime, UUID]]
    weights: Floats
    not_come: int
    report: dict[str, Any]


async def draw_rows(
    session: AsyncSession, model: str, version: int, *, since: datetime, max_rows: int, seed: int
) -> DrawnRows:
    """Draw at most `max_rows` rows that arrived since then with features of this version.

    Rows of tenants that opted out of learning are counted, but never drawn.
    """
    latest = datetime.now(UTC) + MAX_CLOCK_ERROR
    given = {"model": model, "version": version, "since": since, "latest": latest}
    opted_out = set(await session.scalars(_OPTED_OUT))
    counts = (await session.execute(_COUNT, given)).all()
    not_come = await session.scalar(_NOT_COME, given)
    erased = (await session.execute(_ERASED, {"model": model})).all()
    strata = _strata([row for row in counts if row.tenant_id not in opted_out])
    quotas = allocate(strata, max_rows)
    rows = (await session.execute(_DRAW, given | _draw_parameters(strata, quotas, seed))).all()
    kept, weight = _kept_and_weights(rows, strata, quotas)
    tenants: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in counts:
        tenants[str(row.tenant_id)][OPTED_OUT if row.tenant_id in opted_out else FOUND] += row.rows
    for row in erased:
        tenants[str(row.tenant_id)][ERASED] += row.rows
    for row in kept:
        tenants[str(row.tenant_id)][READ] += 1
    return DrawnRows(
        keys=[(row.arrived_at, row.id) for row in kept],
        weights=weight,
        not_come=not_come or 0,
        report={
            "seed": seed,
            "since": since.isoformat(),
            FOUND: sum(stratum.rows for stratum in strata),
            READ: len(kept),
            "hard": sum(row.hard for row in kept),
            "tenants": {
                tenant: {name: counts_by_kind[name] for name in (FOUND, READ, OPTED_OUT, ERASED)}
                for tenant, counts_by_kind in sorted(tenants.items())
            },
        },
    )


def _strata(counts: Sequence[Any]) -> list[Stratum]:
    rows: dict[UUID, list[int]] = {}
    for row in counts:
        rows.setdefault(row.app_id, [0, 0])[row.hard] += row.rows
    return [Stratum(app, easy, hard) for app, (easy, hard) in rows.items()]


def _draw_parameters(strata: list[Stratum], quotas: list[Quota], seed: int) -> dict[str, Any]:
    parameters = [
        (stratum.app, hard, quota)
        for stratum, both in zip(strata, quotas, strict=True)
        for hard, quota in ((False, both.easy), (True, both.hard))
        if quota
    ]
    return {
        "apps": [app for app, _, _ in parameters],
        "hards": [hard for _, hard, _ in parameters],
        "starts": [_ring_start(seed, app, hard=hard) for app, hard, _ in parameters],
        "quotas": [quota for _, _, quota in parameters],
    }


def _ring_start(seed: int, app: UUID, *, hard: bool) -> int:
    """The start of an app's draw on its ring: a 64-bit hash."""
    digest = hashlib.sha256(f"{seed} {app} {hard}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _kept_and_weights(
    rows: Sequence[Any], strata: list[Stratum], quotas: list[Quota]
) -> tuple[list[Any], Floats]:
    """The drawn rows without the extra ones among the newest, oldest first, and weights."""
    if not rows:
        return [], np.zeros(0)
    number_of = {stratum.app: number for number, stratum in enumerate(strata)}
    number = np.array([number_of[row.app] for row in rows], dtype=np.intp)
    hard = np.array([row.hard for row in rows], dtype=np.bool_)
    at = np.array([row.arrived_at.timestamp() for row in rows])

    def by_row(items: Sequence[Any], name: str) -> Floats:
        return np.array([getattr(item, name) for item in items], dtype=np.float64)[number]

    core_hard = by_row(quotas, "core_hard")
    core = ~hard | (_draw_position(number, hard) < core_hard)
    newest = at >= newest_from(at, core)
    drawn = np.where(newest, core_hard, by_row(quotas, "hard"))
    drawn = np.where(hard, drawn, by_row(quotas, "easy"))
    population = np.where(hard, by_row(strata, "hard"), by_row(strata, "easy"))
    order = sorted(
        np.flatnonzero(core | ~newest).tolist(),
        key=lambda row: (rows[row].arrived_at, rows[row].id),
    )
    return [rows[row] for row in order], weights(population[order], drawn[order])


def _draw_position(number: NDArray[np.intp], hard: Bools) -> NDArray[np.intp]:
    """The index of each row in its stratum's draw; rows of a stratum are contiguous."""
    group = 2 * number + hard
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return np.asarray(np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group))))
