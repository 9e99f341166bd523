"""Prediction of generation lengths: features, model, training, versions."""
