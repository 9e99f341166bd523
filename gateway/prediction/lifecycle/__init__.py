"""Versions: training runs, activation, comparison, erasure."""
