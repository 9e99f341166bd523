"""Holds of live requests in the accounts of their limits."""
