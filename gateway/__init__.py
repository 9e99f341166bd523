"""The gateway: the REST service that predicts, batches, schedules, streams and records."""
