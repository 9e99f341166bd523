"""What is queued: its amount and bounds, and the order of arrival."""
