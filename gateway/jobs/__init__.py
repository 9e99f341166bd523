"""Batch jobs: lines that need no answer at once, run together."""
