"""U1: the order of requests in front of vLLM."""
