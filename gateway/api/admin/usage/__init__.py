"""`/admin/usage` and `/admin/prices`: what was used, and what it costs."""
