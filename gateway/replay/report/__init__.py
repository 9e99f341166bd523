"""The report of a replay: tables, plots and an HTML page."""
