"""Routing: which of a model's engines runs a request."""
