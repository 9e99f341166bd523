"""How often the band of a batch job's end is right."""
