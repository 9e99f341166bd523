"""The engine: a process of its own that runs one model. Token ids in, token ids out."""
