"""From history rows to a fitted and judged model."""
