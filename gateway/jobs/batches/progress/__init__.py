"""How far jobs are, and when they will be done."""
