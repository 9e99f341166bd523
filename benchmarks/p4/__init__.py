"""P4: short against long answers, on prompts of OASST1."""
