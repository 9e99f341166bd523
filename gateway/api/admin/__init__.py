"""The admin API: tenants, apps and keys, predictors and their training."""
