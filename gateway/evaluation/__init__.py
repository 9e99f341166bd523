"""Evaluation of the length predictor and of baselines on folders of texts."""
