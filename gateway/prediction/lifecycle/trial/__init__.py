"""Tries predictor versions before they are stored or activated."""
