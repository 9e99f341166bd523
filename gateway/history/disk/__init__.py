"""What a gateway keeps of history on its own disk until Postgres has it."""
