"""Policies for comparison: the usual orders and S³."""
