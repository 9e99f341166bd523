"""Benchmarks of the engine: E1, E3, prefix and step."""
