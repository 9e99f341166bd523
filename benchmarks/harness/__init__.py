"""What the benchmarks share: reports, machine load, repeated runs."""
