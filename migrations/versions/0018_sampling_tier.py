"""The index for sampling has the service tier, by which lines of batch jobs are left out.

Without it, every draw and count reads the rows themselves. Building the index blocks inserts of
history, which wait in the spool meanwhile.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NAME = "ix_requests_sampling"
BEFORE = ["id", "arrived_at", "tenant_id"]


def upgrade() -> None:
    _rebuild([*BEFORE, "service_tier"])


def downgrade() -> None:
    _rebuild(BEFORE)


def _rebuild(included: list[str]) -> None:
    op.drop_index(NAME, table_name="requests")
    op.create_index(
        NAME,
        "requests",
        ["model", "feature_version", "app_id", "hard", sa.text("uuid_hash_extended(id, 0)")],
        postgresql_include=included,
        postgresql_where=sa.text("feature_version > 0 AND (NOT censored OR generation_tokens > 0)"),
    )
