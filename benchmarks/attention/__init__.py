"""Benchmark of the attention of decoding: shared pages read once, against each row on its own."""
