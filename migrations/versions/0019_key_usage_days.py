"""Usage by day without end users, kept by the triggers that keep it with them.

What is there is summed a month at a time, oldest first: `requests` is locked against writes only
while one month is summed, and gateways keep records in their spools meanwhile. Until all is summed,
the triggers add to the months that are. A migration that was interrupted begins again.

An update of `requests` that changes no usage, such as that of late embeddings, no longer reads all
sums of its tenants.
"""

# ruff: noqa: S608  the statements are made of the constants of this file

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import sqlalchemy as sa
from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

SUMS = "key_usage_days"
SUMS_KEY = "tenant_id, day, app_id, api_key_id, model, service_tier, price_id"
KEYS = {"usage_days": f"{SUMS_KEY}, end_user", SUMS: SUMS_KEY}
COUNTS = ("requests", "failed", "prompt_tokens", "cached_tokens", "generation_tokens")
PORTION = timedelta(days=31)

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
NEW, OLD = COUNTED.format(rows="new_rows"), COUNTED.format(rows="old_rows")
CHANGED = f"""
    {NEW} UNION ALL
    SELECT {KEYS["usage_days"]}, {", ".join(f"-{name} AS {name}" for name in COUNTS)}
    FROM ({OLD}) AS old
"""
SOME = " HAVING " + " OR ".join(f"sum({name}) <> 0" for name in COUNTS)
LOCK = "LOCK TABLE requests IN SHARE ROW EXCLUSIVE MODE"


def added(table: str, counted: str, having: str = "") -> str:
    """The statement that adds to the sums of a table.

    Rows are locked in the order of their key, so that gateways do not lock one another out.
    """
    key = KEYS[table]
    return f"""
        INSERT INTO {table} AS kept ({key}, {", ".join(COUNTS)})
        SELECT {key}, {", ".join(f"sum({name})" for name in COUNTS)}
        FROM ({counted}) AS counted GROUP BY {key}{having} ORDER BY {key}
        ON CONFLICT ({key}) DO UPDATE SET
        {", ".join(f"{name} = kept.{name} + excluded.{name}" for name in COUNTS)}
    """


def emptied(table: str) -> str:
    """The statement that deletes the sums of the old rows of an update that have become zero."""
    columns = KEYS[table].split(", ")
    same = " AND ".join(f"kept.{name} = before.{name}" for name in columns)
    zero = " AND ".join(f"kept.{name} = 0" for name in COUNTS)
    return f"DELETE FROM {table} AS kept USING ({OLD}) AS before WHERE {same} AND {zero}"


def functions(summed: str | None) -> str:
    """Replaces the functions of the triggers: they keep the sums without end users too, of the
    days under the condition `summed`. None: of no day.
    """
    insertion, change = [added("usage_days", NEW)], [emptied("usage_days")]
    if summed is not None:
        days = "SELECT * FROM ({rows}) AS of_days WHERE " + summed
        insertion.append(added(SUMS, days.format(rows=NEW)))
        change += [added(SUMS, days.format(rows=CHANGED), SOME), emptied(SUMS)]
    bodies = {
        "requests_inserted": "; ".join(insertion),
        "requests_updated": f"{added('usage_days', CHANGED, SOME)}; "
        f"IF FOUND THEN {'; '.join(change)}; END IF",
    }
    return "; ".join(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql "
        f"AS $$ BEGIN {body}; RETURN NULL; END $$"
        for name, body in bodies.items()
    )


def portions(first: date | None, last: date | None) -> Iterator[tuple[str, str]]:
    """Conditions for the days of each portion, and for its days with all before; the last portion
    has no end.
    """
    begins = "true"
    while first is not None and last is not None and first + PORTION <= last:
        first += PORTION
        ends = f"day < '{first}'"
        yield f"{begins} AND {ends}", ends
        begins = f"day >= '{first}'"
    yield begins, "true"


def upgrade() -> None:
    op.execute(LOCK)
    op.execute(functions(None))
    op.execute(f"DROP TABLE IF EXISTS {SUMS}")
    op.create_table(
        SUMS,
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("app_id", sa.Uuid(), nullable=False),
        sa.Column("api_key_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("service_tier", sa.Text(), nullable=False),
        sa.Column("price_id", sa.Uuid(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
        sa.PrimaryKeyConstraint(*SUMS_KEY.split(", "), name=op.f(f"pk_{SUMS}")),
    )
    op.create_index(op.f(f"ix_{SUMS}_day"), SUMS, ["day"])
    op.create_index(op.f(f"ix_{SUMS}_api_key_id_day"), SUMS, ["api_key_id", "day"])
    with op.get_context().autocommit_block():
        found = op.get_bind().execute(sa.text("SELECT min(day), max(day) FROM usage_days")).one()
        for days, summed in portions(*found):
            sums = added(SUMS, f"SELECT * FROM usage_days WHERE {days}")
            op.execute(f"DO $portion$ BEGIN {LOCK}; {sums}; {functions(summed)}; END $portion$")


def downgrade() -> None:
    op.execute(LOCK)
    op.execute(functions(None))
    op.drop_table(SUMS)
