"""The default policy: fair shares between tenants, deadlines, waiting time against cost."""
