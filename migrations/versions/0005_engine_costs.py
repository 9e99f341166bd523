"""The cost of the engine's steps, for each run of a gateway; for replays of what it served.

History of earlier releases has none.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "engine_costs",
        sa.Column("gateway_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("error", sa.Float(), nullable=False),
        sa.Column("step_s", sa.Float(), nullable=False),
        sa.Column("prompt_token_s", sa.Float(), nullable=False),
        sa.Column("prompt_read_s", sa.Float(), nullable=False),
        sa.Column("sequence_s", sa.Float(), nullable=False),
        sa.Column("kv_token_s", sa.Float(), nullable=False),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("page_tokens", sa.Integer(), nullable=False),
        sa.Column("context_tokens", sa.Integer(), nullable=False),
        sa.Column("step_tokens", sa.Integer(), nullable=True),
        sa.Column("max_sequences", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("gateway_id", name=op.f("pk_engine_costs")),
    )


def downgrade() -> None:
    op.drop_table("engine_costs")
