"""Own lengths: the lengths of a served model's own answers to real texts."""
