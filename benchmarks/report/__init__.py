"""The report page: the main figures, with pictures, from the committed results."""
