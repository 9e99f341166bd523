"""Limits on use as they are stored, and how gateways follow their changes."""
