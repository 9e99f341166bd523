"""R1: what one hostile client does to the others."""
