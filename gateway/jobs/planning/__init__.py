"""The plan of batch jobs: groups, their order, and what sharing saves; made in its own process."""
