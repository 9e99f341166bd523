"""The engine interface, its clients and the supervised process."""
