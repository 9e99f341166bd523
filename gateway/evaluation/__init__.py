"""How well lengths are predicted on folders of texts, beside simpler ways to do it."""
