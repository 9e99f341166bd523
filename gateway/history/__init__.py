"""One record per request: spooled to disk, written in groups to Postgres, queried."""
