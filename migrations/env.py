"""Runs migrations on the given connection or, for developers, on DATABASE_URL.

A migration waits at most `LOCK_TIMEOUT` for a table's lock, since requests queue behind it
meanwhile; after that it fails and can be run again.
"""

import os
from typing import Final

from alembic import context
from sqlalchemy import Connection, text

from gateway.database.migration import migration_engine
from models import Base

LOCK_TIMEOUT: Final = "5s"


def run(connection: Connection) -> None:
    """Run the command's migrations, each in its own transaction."""
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with migration_engine(os.environ["DATABASE_URL"]).connect() as opened:
        run(opened)
