"""Postgres: the embedded server, connections, migrations, and translation of its errors."""
