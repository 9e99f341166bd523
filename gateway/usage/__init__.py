"""Prices of tokens, and what tenants, apps, keys and users used."""
