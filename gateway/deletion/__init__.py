"""Deletion of tenants and apps, and the erasure of what they leave."""
