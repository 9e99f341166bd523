"""Which gateway runs which lines: claims in order, and the leases that they last for."""
