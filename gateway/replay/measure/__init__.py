"""The measures of a replay, with confidence intervals."""
