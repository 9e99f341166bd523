"""What it costs an iteration-level engine that a request joins.

There neither padding nor waiting for a batch's longest is wasted (Orca, OSDI 2022), and what
sequences compete for is KV memory over time: tokens held times steps (as in SageSched, arXiv
2603.07917), plus the time in which its prompt is computed and all others stand still.
"""

from typing import Final

PROMPT_STEPS: Final = 16.0  # KV token-steps that computing a token of the prompt counts for


def joining_cost(prompt_tokens: float, generation_tokens: float) -> float:
    """KV token-steps of a request: its tokens summed over its steps, and its prompt's part."""
    growth = generation_tokens * (generation_tokens + 1) / 2
    return prompt_tokens * (generation_tokens + PROMPT_STEPS) + growth
