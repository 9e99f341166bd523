"""Conversations in bodies of chat completions: messages, the tools on offer, calls of them."""
