"""The engine's KV memory."""
