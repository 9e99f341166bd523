"""The wait that is reported to a client, against naive estimates."""
