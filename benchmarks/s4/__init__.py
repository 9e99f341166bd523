"""S4: fair shares of tenants, on a simulated engine."""
