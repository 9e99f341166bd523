"""What the page costs the gateway, and how soon it is there."""
