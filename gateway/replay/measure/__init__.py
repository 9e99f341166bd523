"""What a replay measures, with confidence intervals."""
