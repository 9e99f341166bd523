"""S3: reservations at a fixed KV budget."""
