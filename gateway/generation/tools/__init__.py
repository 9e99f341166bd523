"""Tools: what a request offers, how a model's prompt shows it, how its answer calls it."""
