"""Callers: tenants, their apps and API keys."""
