"""Simulated engines: continuous batching, and lockstep batches."""
