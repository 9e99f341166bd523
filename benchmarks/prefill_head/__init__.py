"""prefill-head: what the model's hidden state after prefill would add to length prediction."""
