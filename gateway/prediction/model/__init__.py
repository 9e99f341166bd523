"""The trained length model and its serialised form."""
