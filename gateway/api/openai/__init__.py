"""The endpoints compatible with OpenAI's API."""
