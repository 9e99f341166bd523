"""Requests to replay: from traces, from history, or synthetic."""
