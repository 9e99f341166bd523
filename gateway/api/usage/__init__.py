"""What was used, and what limits leave: query parameters, answers and headers of routes."""
