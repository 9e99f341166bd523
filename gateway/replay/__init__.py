"""Replay: the same scheduling around a simulated engine, on recorded or generated requests."""
