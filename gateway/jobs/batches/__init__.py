"""Batch jobs of OpenAI's API: their lines in the database, each of which gets one result."""
