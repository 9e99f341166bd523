"""When queued requests start and end: the queue run forward, with bands by its own errors."""
