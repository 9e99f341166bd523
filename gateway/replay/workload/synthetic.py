"""Lengths of requests where no file gives any: those of a chat service, as log-normal numbers."""

from typing import Final

import numpy as np

from gateway.replay.workload.workload import Workload

# Median and spread (standard deviation of the logarithm, from median and 0.9 quantile) of the
# conversation trace of Azure/AzurePublicDataset, November 2023.
PROMPT: Final = (1_020, 0.77)
GENERATION: Final = (129, 0.93)
MOST_PROMPT: Final = 8_192
MOST_GENERATION: Final = 2_048
REQUESTS: Final = 10_000


def typical_lengths() -> Workload:
    """Requests to draw from, always the same."""
    random = np.random.default_rng(2023)
    prompt, generation = (
        np.rint(median * np.exp(spread * random.standard_normal(REQUESTS)))
        for median, spread in (PROMPT, GENERATION)
    )
    return Workload.of(
        np.zeros(REQUESTS),
        np.clip(prompt, 1, MOST_PROMPT),
        np.clip(generation, 1, MOST_GENERATION),
        max_tokens=MOST_GENERATION,
    )
