"""`lmaas demo`: sends traffic to a running gateway; reports the results as tables and a plot."""
