"""Replay: the gateway's scheduling with a simulated engine, on recorded or generated requests."""
