"""S2: order and admission with continuous batching."""
