"""P2: what a prediction costs."""
