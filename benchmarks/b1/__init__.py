"""B1: the prompt tokens that prefix groups save, counted in replay and on the real engine."""
