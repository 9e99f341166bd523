"""The engine as a process: HTTP, sessions, events and logs."""
