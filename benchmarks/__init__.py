"""The figures that the engine is held to, one command each: `make bench F=E1`."""
