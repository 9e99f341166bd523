"""One record per request: spooled, written in groups, queried."""
