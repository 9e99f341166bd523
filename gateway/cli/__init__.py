"""The `lmaas` command line."""
