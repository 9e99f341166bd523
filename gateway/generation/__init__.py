"""One request's life: tokens, prediction, queue, dispatch, stream, record."""
