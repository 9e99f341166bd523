"""The cost of an engine's steps: from published figures, or measured by calibration."""
