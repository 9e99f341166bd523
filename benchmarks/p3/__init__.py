"""P3: new apps and changed traffic."""
