"""I1: InfiniGen's attention is exact where nothing is left out, and what a step fetches."""
