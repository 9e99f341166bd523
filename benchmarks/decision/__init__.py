"""The cost of a scheduling decision."""
