"""How served predictions compare with the lengths that came: sums over the newest history.

Of all sources, unlike `drift_series`, which knows the versions' alone. Lengths that were forced or
cut off before their own `max_tokens` say nothing of a prediction and are left out.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import TextClause, text

from gateway.database.errors import Sessions, transaction
from gateway.quantiles import MEDIAN, P90

MAX_ROWS: Final = 20_000  # the newest of the window
MAX_APPS: Final = 20
BINS_PER_OCTAVE: Final = 2  # of the logarithm to base 2

_STATEMENT: Final = """
    WITH recent AS (
        SELECT arrived_at, tenant_id, app_id,
               greatest(generation_tokens, 1) AS length,
               greatest(quantiles[{median}], 1) AS median,
               greatest(quantiles[{upper}], 1) AS upper
        FROM requests
        WHERE model = :model AND arrived_at >= :since AND prediction_source <> 'imported'
          AND (NOT censored OR generation_tokens >= max_tokens) AND forced IS NOT TRUE
        ORDER BY arrived_at DESC LIMIT :most
    )
    {rest}
"""


def _statement(rest: str) -> TextClause:
    """A statement about the recent rows; SQL arrays are indexed from 1."""
    return text(_STATEMENT.format(median=MEDIAN + 1, upper=P90 + 1, rest=rest))


_DENSITY: Final = _statement("""
    SELECT floor(:bins * log(2, median::numeric))::int AS predicted,
           floor(:bins * log(2, length::numeric))::int AS actual,
           count(*) AS rows
    FROM recent GROUP BY 1, 2
""")
_OVER_TIME: Final = _statement("""
    SELECT floor(extract(epoch FROM arrived_at - :since) / :width_s)::int AS number,
           count(*) AS rows, avg((length <= upper * (1 + 1e-9))::int)::float8 AS coverage,
           (sum(upper) / sum(length))::float8 AS held, sum(length)::float8 AS tokens
    FROM recent GROUP BY 1 ORDER BY 1
""")
_APPS: Final = _statement(""", summed AS (
        SELECT tenant_id, app_id, count(*) AS rows,
               avg((length <= upper * (1 + 1e-9))::int)::float8 AS coverage,
               (sum(upper) / sum(length))::float8 AS held,
               avg(length)::float8 AS mean_tokens,
               avg(abs(length - median))::float8 AS mean_error
        FROM recent GROUP BY 1, 2 ORDER BY held DESC LIMIT :apps
    )
    SELECT tenants.name AS tenant, apps.name AS app, summed.app_id, rows, coverage, held,
           mean_tokens, mean_error
    FROM summed LEFT JOIN tenants ON tenants.id = summed.tenant_id
    LEFT JOIN apps ON apps.id = summed.app_id ORDER BY held DESC
""")


class DensityCell(Struct, frozen=True):
    """Requests whose median and length fell into these bins of `BINS_PER_OCTAVE` to an octave."""

    predicted: int
    actual: int
    rows: int


class QualityBucket(Struct, frozen=True):
    """An interval from `since`: the share of lengths within P90, ΣP90 ÷ Σ length, and Σ length."""

    since: datetime
    rows: int
    coverage: float
    held: float
    tokens: float


class AppQuality(Struct, frozen=True):
    """An app: as above, with its mean length and the mean absolute error of the median.

    Names of what was deleted are None.
    """

    tenant: str | None
    app: str | None
    app_id: UUID
    rows: int
    coverage: float
    held: float
    mean_tokens: float
    mean_error: float


class ServedQuality(Struct, frozen=True):
    """The quality of the predictions of a window: `rows` requests in all, apps worst first."""

    rows: int
    density: Sequence[DensityCell]
    buckets: Sequence[QualityBucket]
    apps: Sequence[AppQuality]


class ServedQualities:
    """Reads the quality of the predictions served for one model."""

    def __init__(self, sessions: Sessions, model: str) -> None:
        self._sessions = sessions
        self._model = model

    async def read(self, window: timedelta, buckets: int) -> ServedQuality:
        """The quality of the newest `MAX_ROWS` requests of the window before now."""
        since, width = datetime.now(UTC) - window, window / buckets
        given = {"model": self._model, "since": since, "most": MAX_ROWS}
        async with transaction(self._sessions) as session:
            cells = (await session.execute(_DENSITY, given | {"bins": BINS_PER_OCTAVE})).all()
            timed = given | {"width_s": width.total_seconds()}
            times = (await session.execute(_OVER_TIME, timed)).all()
            apps = (await session.execute(_APPS, given | {"apps": MAX_APPS})).all()
        density = [DensityCell(*row) for row in cells]
        return ServedQuality(
            rows=sum(cell.rows for cell in density),
            density=density,
            buckets=[
                QualityBucket(
                    since + row.number * width, row.rows, row.coverage, row.held, row.tokens
                )
                for row in times
            ],
            apps=[AppQuality(*row) for row in apps],
        )
