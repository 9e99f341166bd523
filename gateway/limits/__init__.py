"""Limits on use, and the holds that keep them: pure, the same live and in a replay."""
