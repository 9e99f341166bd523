"""S2: order and admission on an engine that batches by iteration."""
