"""The model on its device."""
