"""R1-faults: the parts of a gateway are killed and stopped under load."""
