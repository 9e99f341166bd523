"""Who looks at the page: sign-in, sessions, and what each viewer may see."""
