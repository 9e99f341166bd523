"""The engine client interface, its implementations, and the supervised engine process."""
