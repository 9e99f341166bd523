"""Time and memory of planning a large batch job, and what the order of its lines is worth."""
