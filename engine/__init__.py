"""The engine: a separate process that runs one model. Token ids in, token ids out."""
