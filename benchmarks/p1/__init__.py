"""P1: length prediction on real texts."""
