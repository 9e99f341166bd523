"""`lmaas admin usage` and `lmaas admin prices …`."""
