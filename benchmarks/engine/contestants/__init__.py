"""The systems that E1 compares, each a long-lived process that loads its model once."""
