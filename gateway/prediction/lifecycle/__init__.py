"""Life cycle of versions: training runs, activation, comparison, erasure."""
