"""What an operator sees of the queue and of single requests."""
