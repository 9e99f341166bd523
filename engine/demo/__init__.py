"""The small model shipped as default, and the generator of its training data."""
