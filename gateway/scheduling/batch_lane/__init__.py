"""The lane of batch jobs: what starts when nothing interactive waits."""
