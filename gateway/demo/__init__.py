"""`lmaas demo`: traffic against a running gateway, and what came of it as table and picture."""
