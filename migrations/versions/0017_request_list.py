"""Indexes for lists of finished requests, and for the usage of a key.

The usual outcomes and the usual tier are found in the order of arrival alone, so only the others
are indexed. Building the indexes blocks inserts of history, which wait in the spool meanwhile.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

RARE_OUTCOME = "finish_reason NOT IN ('stop', 'length')"
INDEXED = [
    (("api_key_id", "arrived_at"), None),
    (("end_user", "arrived_at"), "end_user IS NOT NULL"),
    (("finish_reason", "arrived_at"), RARE_OUTCOME),
    (("tenant_id", "finish_reason", "arrived_at"), RARE_OUTCOME),
    (("app_id", "finish_reason", "arrived_at"), RARE_OUTCOME),
    (("api_key_id", "finish_reason", "arrived_at"), RARE_OUTCOME),
    (("service_tier", "arrived_at"), "service_tier <> 'default'"),
]


def upgrade() -> None:
    for columns, condition in INDEXED:
        op.create_index(
            op.f(f"ix_requests_{'_'.join(columns)}"),
            "requests",
            list(columns),
            postgresql_where=None if condition is None else sa.text(condition),
        )
    op.create_index(op.f("ix_usage_days_api_key_id_day"), "usage_days", ["api_key_id", "day"])


def downgrade() -> None:
    op.drop_index(op.f("ix_usage_days_api_key_id_day"), table_name="usage_days")
    for columns, _ in INDEXED:
        op.drop_index(op.f(f"ix_requests_{'_'.join(columns)}"), table_name="requests")
