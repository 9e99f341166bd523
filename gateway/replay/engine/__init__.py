"""Simulated engines: by iteration and in lock step."""
