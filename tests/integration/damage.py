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


async def _execute(sessions: Sessions, *statements: str) -> None:
    async with sessions.begin() as session:
        for statement in statements:
            await session.execute(text(statement))
