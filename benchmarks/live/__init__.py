"""S0: the live gateway against a replay."""
