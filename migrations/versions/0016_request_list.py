"""Indexes for lists of finished requests by key, user, outcome and service tier.

The usual outcomes and the usual tier are found in the order of arrival alone, so only the others
are indexed. Building the indexes blocks inserts of history, which wait in the spool meanwhile.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0016"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INDEXED = {
    "api_key_id": None,
    "end_user": "end_user IS NOT NULL",
    "finish_reason": "finish_reason NOT IN ('stop', 'length')",
    "service_tier": "service_tier <> 'default'",
}


def upgrade() -> None:
    for column, condition in INDEXED.items():
        op.create_index(
            op.f(f"ix_requests_{column}_arrived_at"),
            "requests",
            [column, "arrived_at"],
            postgresql_where=None if condition is None else sa.text(condition),
        )


def downgrade() -> None:
    for column in INDEXED:
        op.drop_index(op.f(f"ix_requests_{column}_arrived_at"), table_name="requests")
