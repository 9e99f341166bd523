"""S1: the ladder of Magnus, rung by rung (arXiv 2406.04785)."""
