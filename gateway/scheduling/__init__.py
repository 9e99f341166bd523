"""Which batch runs next and whether it fits: pure functions, no I/O."""
