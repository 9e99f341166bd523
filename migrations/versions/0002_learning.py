"""The predictor's life cycle: schedule, audit log, opt-out, scoped keys; indexes for sampling.

New columns have defaults, so the previous release can keep writing. Building the indexes blocks
inserts of history, which wait in the spool meanwhile; building them concurrently would wait for
every gateway that waits for this migration.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())
AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", AT, server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("before", JSON, nullable=True),
        sa.Column("after", JSON, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
    )
    op.create_index(op.f("ix_audit_entries_subject_id"), "audit_entries", ["subject", "id"])
    op.create_table(
        "training_schedules",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("changed_at", AT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_training_schedules")),
    )
    op.create_table(
        "scoped_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", AT, server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", AT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scoped_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_scoped_keys_digest")),
        sa.UniqueConstraint("name", name=op.f("uq_scoped_keys_name")),
    )
    op.add_column(
        "tenants",
        sa.Column("learning", sa.Boolean(), server_default=sa.text("true"), nullable=False),
    )
    op.add_column("predictors", sa.Column("replaced_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_predictors_replaced_id"), "predictors", "predictors", ["replaced_id"], ["id"]
    )
    op.add_column(
        "training_runs",
        sa.Column("trigger", sa.Text(), server_default="operator", nullable=False),
    )
    op.add_column("training_runs", sa.Column("cancelled_by", sa.Text(), nullable=True))
    op.add_column("training_runs", sa.Column("phase", sa.Text(), nullable=True))
    op.add_column(
        "training_runs", sa.Column("rows_read", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column("training_runs", sa.Column("samples", JSON, nullable=True))
    op.add_column(
        "requests", sa.Column("hard", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_index(
        "ix_requests_sampling",
        "requests",
        ["model", "feature_version", "app_id", "hard", sa.text("uuid_hash_extended(id, 0)")],
        postgresql_include=["id", "arrived_at", "tenant_id"],
        postgresql_where=sa.text("feature_version > 0 AND (NOT censored OR generation_tokens > 0)"),
    )
    op.create_index(
        "ix_requests_erased",
        "requests",
        ["model", "tenant_id"],
        postgresql_where=sa.text("feature_version = 0"),
    )


def downgrade() -> None:
    op.drop_index("ix_requests_erased", table_name="requests")
    op.drop_index("ix_requests_sampling", table_name="requests")
    op.drop_column("requests", "hard")
    for column in ("samples", "rows_read", "phase", "cancelled_by", "trigger"):
        op.drop_column("training_runs", column)
    op.drop_constraint(op.f("fk_predictors_replaced_id"), "predictors", type_="foreignkey")
    op.drop_column("predictors", "replaced_id")
    op.drop_column("tenants", "learning")
    op.drop_table("scoped_keys")
    op.drop_table("training_schedules")
    op.drop_index(op.f("ix_audit_entries_subject_id"), table_name="audit_entries")
    op.drop_table("audit_entries")
