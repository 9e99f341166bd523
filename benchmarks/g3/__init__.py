"""G3: lists, usage, the training read and retention on millions of rows of history."""
