"""The database's migrations; `gateway.database.migration` runs them."""
