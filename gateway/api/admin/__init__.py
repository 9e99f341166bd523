"""The admin API: tenants, apps and keys, predictors and training, policy, engine and queue."""
