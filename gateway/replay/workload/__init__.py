"""Requests to replay: from a trace, from history, or synthetic."""
