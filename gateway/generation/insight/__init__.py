"""The operator's view of the queue and of single requests."""
