"""Who asks: tenants, their apps and API keys."""
