"""The live parts: samples of the gateway, and one rendering a second for all viewers."""
