"""Postgres: the embedded server, connections, migrations, and the border its errors cross."""
