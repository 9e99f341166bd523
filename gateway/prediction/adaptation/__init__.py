"""Corrections between trainings, from each outcome."""
