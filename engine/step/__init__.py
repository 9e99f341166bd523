"""The step loop: which sequences run, and what becomes of them."""
