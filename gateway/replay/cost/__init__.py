"""What a step of an engine costs: published, or measured by calibration."""
