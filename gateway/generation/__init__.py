"""The life cycle of a request: tokenize, predict, queue, dispatch, stream, record."""
