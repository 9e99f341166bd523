"""Learning live: prediction error and response times while a served predictor learns."""
