"""A replay as tables, plots and a page."""
