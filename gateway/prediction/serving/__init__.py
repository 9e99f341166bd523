"""Predictions for requests, from a process of its own."""
