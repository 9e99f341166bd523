"""Training: history rows to a fitted and evaluated version."""
