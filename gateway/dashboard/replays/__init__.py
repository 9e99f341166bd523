"""Replays of the gateway's own history, each in a process of its own."""
