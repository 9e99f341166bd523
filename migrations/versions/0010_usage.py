"""Usage by day, kept by triggers of history, and prices.

The triggers see every row that any gateway inserts, erases or redelivers, of this release or the
one before, in the row's own transaction. Creating them locks `requests` against writes until what
is there already has been summed; gateways keep records in their spools meanwhile.
"""

# ruff: noqa: S608  the statements are made of the constants of this file

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

KEY = "tenant_id, day, app_id, api_key_id, model, service_tier, price_id, end_user"
COUNTS = ("requests", "failed", "prompt_tokens", "cached_tokens", "generation_tokens")
NAMED = ", ".join(COUNTS)

# A failed request used nothing; a request that never started did not read its prompt; the choices
# of a request share the prompt of the first. Imported rows are no usage.
COUNTED = """
    SELECT tenant_id, (arrived_at AT TIME ZONE 'UTC')::date AS day, app_id, api_key_id, model,
        coalesce(service_tier, '') AS service_tier,
        coalesce(price_id, '00000000-0000-0000-0000-000000000000') AS price_id,
        coalesce(end_user, '') AS end_user,
        (first_id IS NULL)::int AS requests,
        (first_id IS NULL AND finish_reason = 'error')::int AS failed,
        CASE WHEN first_id IS NULL AND queued_s IS NOT NULL AND finish_reason <> 'error'
            THEN prompt_tokens ELSE 0 END AS prompt_tokens,
        CASE WHEN first_id IS NULL AND queued_s IS NOT NULL AND finish_reason <> 'error'
            THEN coalesce(cached_tokens, 0) ELSE 0 END AS cached_tokens,
        CASE WHEN finish_reason <> 'error' THEN generation_tokens ELSE 0 END AS generation_tokens
    FROM {rows} WHERE prediction_source <> 'imported'
"""
# Rows are locked in the order of their key, so that gateways do not lock one another out.
ADD = f"""
    INSERT INTO usage_days AS kept ({KEY}, {NAMED})
    SELECT {KEY}, {", ".join(f"sum({name})" for name in COUNTS)}
    FROM ({{counted}}) AS counted GROUP BY {KEY}{{having}} ORDER BY {KEY}
    ON CONFLICT ({KEY}) DO UPDATE SET
    {", ".join(f"{name} = kept.{name} + excluded.{name}" for name in COUNTS)}
"""
OLD = f"""
    SELECT {KEY}, {", ".join(f"-{name} AS {name}" for name in COUNTS)}
    FROM ({COUNTED.format(rows="old_rows")}) AS old
"""
CHANGED = f"{COUNTED.format(rows='new_rows')} UNION ALL {OLD}"
SOME = " HAVING " + " OR ".join(f"sum({name}) <> 0" for name in COUNTS)
EMPTY = " AND ".join(f"{name} = 0" for name in COUNTS)

FUNCTION = """
    CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN {body}; RETURN NULL; END $$
"""


def upgrade() -> None:
    op.create_table(
        "prices",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("service_tier", sa.Text(), nullable=True),
        sa.Column("input", sa.Numeric(20, 10), nullable=False),
        sa.Column("cached_input", sa.Numeric(20, 10), nullable=False),
        sa.Column("output", sa.Numeric(20, 10), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("valid_until > valid_from", name=op.f("ck_prices_valid")),
        sa.CheckConstraint(
            "input >= 0 AND cached_input >= 0 AND output >= 0",
            name=op.f("ck_prices_not_negative"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    op.create_index(op.f("ix_prices_model_valid_from"), "prices", ["model", "valid_from"])
    op.create_table(
        "usage_days",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("app_id", sa.Uuid(), nullable=False),
        sa.Column("api_key_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("service_tier", sa.Text(), nullable=False),
        sa.Column("price_id", sa.Uuid(), nullable=False),
        sa.Column("end_user", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
        sa.PrimaryKeyConstraint(*KEY.split(", "), name=op.f("pk_usage_days")),
    )
    op.create_index(op.f("ix_usage_days_day"), "usage_days", ["day"])
    op.add_column("requests", sa.Column("first_id", sa.Uuid(), nullable=True))
    op.add_column("requests", sa.Column("cached_tokens", sa.Integer(), nullable=True))
    op.add_column("requests", sa.Column("price_id", sa.Uuid(), nullable=True))

    added = ADD.format(counted=COUNTED.format(rows="new_rows"), having="")
    moved = ADD.format(counted=CHANGED, having=SOME)
    gone = (
        f"; DELETE FROM usage_days WHERE {EMPTY} AND tenant_id IN (SELECT tenant_id FROM old_rows)"
    )
    op.execute(FUNCTION.format(name="requests_inserted", body=added))
    op.execute(FUNCTION.format(name="requests_updated", body=moved + gone))
    op.execute(
        "CREATE TRIGGER inserted AFTER INSERT ON requests REFERENCING NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION requests_inserted()"
    )
    op.execute(
        "CREATE TRIGGER updated AFTER UPDATE ON requests "
        "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION requests_updated()"
    )
    op.execute(ADD.format(counted=COUNTED.format(rows="requests"), having=""))


def downgrade() -> None:
    for name in ("inserted", "updated"):
        op.execute(f"DROP TRIGGER {name} ON requests")
        op.execute(f"DROP FUNCTION requests_{name}()")
    for column in ("price_id", "cached_tokens", "first_id"):
        op.drop_column("requests", column)
    op.drop_table("usage_days")
    op.drop_table("prices")
