"""Paged attention for CPUs and GPUs."""
