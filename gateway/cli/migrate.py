"""`lmaas migrate`: upgrades the database's tables to this release."""

from pathlib import Path

import click

from gateway.database import migration
from gateway.database.embedded import EmbeddedPostgres
from gateway.logs import set_up_logging
from gateway.settings import read_settings


@click.command()
def migrate() -> None:
    """Upgrade the database's tables to this release.

    The database is DATABASE_URL or, if that is unset, the embedded Postgres.
    """
    settings = read_settings()
    set_up_logging(settings.log_level)
    if settings.database_url is not None:
        migration.migrate(settings.database_url)
    else:
        with EmbeddedPostgres(Path(settings.data_dir)) as server:
            migration.migrate(server.url)
    click.echo("the database is up to date")
