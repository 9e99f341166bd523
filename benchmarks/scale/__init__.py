"""scale: what a gateway costs the database that it shares with others."""
