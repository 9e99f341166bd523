"""Finds what is wrong with a gateway, whether it runs or not, and names the remedy."""
