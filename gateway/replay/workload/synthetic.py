"""Synthetic lengths: log-normal, like those of a chat service."""

from typing import Final

import numpy as np

from gateway.replay.workload.workload import Workload

# Median and spread (standard deviation of the logarithm, from median and 0.9 quantile) of the
# conversation trace of Azure/AzurePublicDataset, November 2023.
PROMPT: Final = (1_020, 0.77)
GENERATION: Final = (129, 0.93)
MAX_PROMPT_TOKENS: Final = 8_192
MAX_GENERATION_TOKENS: Final = 2_048
REQUESTS: Final = 10_000


def synthetic_lengths() -> Workload:
    """Requests to draw from, the same in every call; all arrive at 0."""
    random = np.random.default_rng(2023)
    prompt, generation = (
        np.rint(median * np.exp(spread * random.standard_normal(REQUESTS)))
        for median, spread in (PROMPT, GENERATION)
    )
    return Workload.of(
        np.zeros(REQUESTS),
        np.clip(prompt, 1, MAX_PROMPT_TOKENS),
        np.clip(generation, 1, MAX_GENERATION_TOKENS),
        max_tokens=MAX_GENERATION_TOKENS,
    )
