"""The page at `/`: what the gateway knows and does, for people with a browser."""
