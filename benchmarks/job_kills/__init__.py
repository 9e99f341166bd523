"""A batch job whose gateway, engine and PostgreSQL are killed."""
