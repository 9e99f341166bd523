"""Features of a request: text vectors, cues and length history."""
