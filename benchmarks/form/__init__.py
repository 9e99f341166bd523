"""form: what it is worth to know that an answer is free text, JSON of a schema, or a tool call."""
