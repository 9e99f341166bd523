"""The networks: from a packed step to logits."""
