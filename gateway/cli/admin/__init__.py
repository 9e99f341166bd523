"""`lmaas admin`: the admin API from the command line."""
