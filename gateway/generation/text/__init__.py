"""Text to tokens and tokens to text, as an answer grows."""
