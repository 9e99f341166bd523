"""Rows that the database fails on, as on a damaged page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal

from sqlalchemy import text

from gateway.database.errors import Sessions

RAISE: Final = "RAISE EXCEPTION 'damaged' USING ERRCODE = 'XX001'"
LOSE: Final = "PERFORM pg_terminate_backend(pg_backend_pid())"

Act = Literal["INSERT", "UPDATE", "DELETE"]


@asynccontextmanager
async def damaged(
    sessions: Sessions, act: Act, table: str, rows: str, effect: str = RAISE
) -> AsyncIterator[None]:
    """A table in which this act has this effect for some rows.

    `rows` is a condition on `NEW`, or for a deletion on `OLD`.
    """
    row = "OLD" if act == "DELETE" else "NEW"
    await _execute(
        sessions,
        f"""
        CREATE FUNCTION damage() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF {rows} THEN {effect}; END IF; RETURN {row}; END $$
        """,
        f"CREATE TRIGGER damage BEFORE {act} ON {table} FOR EACH ROW EXECUTE FUNCTION damage()",
    )
    try:
        yield
    finally:
        await _execute(sessions, "DROP FUNCTION damage() CASCADE")


@asynccontextmanager
async def unreadable(sessions: Sessions, table: str, column: str, rows: str) -> AsyncIterator[None]:
    """A table of which this column cannot be read in some rows, as where its value is damaged.

    `rows` is a condition on the table's columns. It is a view of the table, to which everything
    else can be written.
    """
    async with sessions() as session:
        found = await session.scalars(
            text(
                "SELECT attname FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) "
                "AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            ),
            {"table": table},
        )
        columns = [str(each) for each in found]
    shown = ", ".join(
        f"CASE WHEN {rows} THEN damage({each}) ELSE {each} END AS {each}"
        if each == column
        else each
        for each in columns
    )
    await _execute(
        sessions,
        f"""
        CREATE FUNCTION damage(value anyelement) RETURNS anyelement LANGUAGE plpgsql STABLE AS $$
        BEGIN {RAISE}; END $$
        """,
        f"ALTER TABLE {table} RENAME TO damaged_table",
        f"CREATE VIEW {table} AS SELECT {shown} FROM damaged_table",
    )
    try:
        yield
    finally:
        await _execute(
            sessions,
            f"DROP VIEW {table}",
            f"ALTER TABLE damaged_table RENAME TO {table}",
            "DROP FUNCTION damage(anyelement)",
        )


async def _execute(sessions: Sessions, *statements: str) -> None:
    async with sessions.begin() as session:
        for statement in statements:
            await session.execute(text(statement))
