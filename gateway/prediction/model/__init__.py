"""The trained model of lengths and its stored form."""
