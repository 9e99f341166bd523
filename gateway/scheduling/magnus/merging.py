"""Merging waiting batches into the one that starts, while that shortens all waits in sum.

Φ alone does not know what waste costs. Where a step mostly reads weights, more rows are nearly
free, and two short batches end sooner as one; where many wait for memory, they do not. The serving
time that the policy learns answers this for the engine and the queue at hand.
"""

from collections.abc import Iterator

import numpy as np

from gateway.scheduling.magnus.batch import MagnusBatch
from gateway.scheduling.magnus.batcher import OpenBatches
from gateway.scheduling.serving_time import CostTerms, batch_seconds, serving_seconds


def merged(
    first: MagnusBatch, open_batches: OpenBatches, queued: int, coefficients: CostTerms
) -> Iterator[MagnusBatch]:
    """The batch that is next, and the open batches to start together with it.

    `queued` is the number of all queued requests. The merged batch fits the memory.
    """
    yield first
    batches, (sizes, prompts, generations) = open_batches.lengths()
    left = np.array([batch is not first for batch in batches], dtype=np.bool_)
    alone_s = batch_seconds(coefficients, sizes, prompts, generations)
    size, prompt, generation = len(first), first.prompt_tokens, first.generation_tokens
    while left.any():
        all_sizes, longest = sizes + size, np.maximum(prompts, prompt)
        most = np.maximum(generations, generation)
        first_s = serving_seconds(coefficients, size, prompt, generation)
        merged_s = batch_seconds(coefficients, all_sizes, longest, most)
        # who waits behind the two batches gains what they save; members of the first lose
        gain_s = (queued - size) * (first_s + alone_s - merged_s) - size * (merged_s - first_s)
        gain_s[~left | ~open_batches.fit(all_sizes, longest, most)] = -np.inf
        best = int(gain_s.argmax())
        if gain_s[best] <= 0:
            return
        left[best] = False
        size, prompt, generation = int(all_sizes[best]), int(longest[best]), float(most[best])
        yield batches[best]
