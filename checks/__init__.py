"""Checks of the repository's own: words, commit messages, and the code blocks of the documents."""
