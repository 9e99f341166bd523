"""The small model shipped for the embedded default, and what it was trained on."""
