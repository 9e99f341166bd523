"""I2: what the answers lose when only a part of the keys and values is attended to."""
