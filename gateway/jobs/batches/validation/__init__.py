"""Validation of a job: its lines checked, stored and ranked."""
