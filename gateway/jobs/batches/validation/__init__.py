"""Validates the input files of jobs: checks their lines, stores and ranks them."""
