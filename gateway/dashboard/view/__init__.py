"""Templates, numbers as text, and the files that the page loads."""
