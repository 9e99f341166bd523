"""A request that was lost with its gateway before its client had a token used nothing.

What had been delivered of another counts as usual. The functions of the triggers are changed where
they ask whether a request failed.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0024"
down_revision: str | None = "0023"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

FAILED = "finish_reason = 'error'"
FAILED_OR_LOST = f"({FAILED} OR finish_reason = 'lost' AND generation_tokens = 0)"
SUCCEEDED = "finish_reason <> 'error'"
SUCCEEDED_OR_SENT = f"({SUCCEEDED} AND NOT (finish_reason = 'lost' AND generation_tokens = 0))"


def replace(*changes: tuple[str, str]) -> None:
    """Replaces texts in the functions of the triggers of `requests`."""
    for name in ("requests_inserted", "requests_updated"):
        shown = sa.text("SELECT pg_get_functiondef(CAST(:name AS regproc))")
        definition: str = op.get_bind().execute(shown, {"name": name}).scalar_one()
        for before, after in changes:
            definition = definition.replace(before, after)
        op.get_bind().exec_driver_sql(definition)


def upgrade() -> None:
    replace((FAILED, FAILED_OR_LOST), (SUCCEEDED, SUCCEEDED_OR_SENT))


def downgrade() -> None:
    replace((FAILED_OR_LOST, FAILED), (SUCCEEDED_OR_SENT, SUCCEEDED))
