"""Paged attention, one file for each kind of machine."""
