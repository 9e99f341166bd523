"""What a client may cost before any application code sees its request."""
