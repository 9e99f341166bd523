"""`lmaas batch`: batch jobs from the command line."""
