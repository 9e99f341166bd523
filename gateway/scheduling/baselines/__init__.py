"""Policies for comparison: the textbook orders, fixed batches and S³."""
