"""Predictions for live requests, computed by the predictor process."""
