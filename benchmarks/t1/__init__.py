"""T1: budgets kept by holds of predicted size, against holds of other sizes."""
