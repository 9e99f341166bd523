"""Benchmark of grammars: masks, compilation, decoding with them, and a suite of JSON schemas."""
