"""S5: deadlines in overload."""
