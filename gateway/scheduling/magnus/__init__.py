"""Magnus: batches of least wasted memory access for an engine in lock step."""
