"""The default policy: tenant shares, deadlines, and waiting against cost."""
