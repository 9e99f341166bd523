"""I3: the speed of sequences in host memory behind links of different widths."""
