"""Magnus: lock-step batches of least wasted memory access."""
