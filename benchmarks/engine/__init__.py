"""E1, E3, prefix and step: the engine itself."""
