"""What fits into KV memory next to what runs."""
