"""Magnus and the rungs of its ladder: lock-step batches of least wasted memory access."""
