"""Grammars of answers: made from what clients send, and compiled before a request is queued."""
