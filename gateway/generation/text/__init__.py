"""Tokenization, and incremental decoding of answers."""
