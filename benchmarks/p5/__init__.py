"""P5: the learning curve of the length predictor, from few rows on."""
