"""The engine process: HTTP, sessions, events and logs."""
