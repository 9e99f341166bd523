"""The engines of the served model: a session with each, and the group of all."""
