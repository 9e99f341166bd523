"""The step loop: composes steps, runs them and tracks sequences."""
