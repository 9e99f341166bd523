"""The sampled tokens of a step, on the host."""

from math import inf, isfinite
from typing import Final, NamedTuple

import torch
from torch import Tensor

from engine.protocol import TokenLogprobs
from engine.sampling.batch import SamplingBatch
from engine.sampling.sampler import SamplerOutput

MIN_LOGPROB: Final = -9999.0  # in place of minus infinity, which JSON cannot represent


class SampledToken(NamedTuple):
    """The token sampled for a row, or the reason why there is none.

    `complete`: with it the text of the row's grammar is complete and cannot go on.
    """

    token: int | None
    logprobs: TokenLogprobs | None = None
    reason: str = ""
    complete: bool = False


class PendingOutput(NamedTuple):
    """A step's sampler output, being copied to the host as one tensor."""

    numbers: (
        Tensor  # float64: tokens, highest scores, then the logprobs of the rows that request them
    )
    copied: torch.cuda.Event | None
    rows: int

    def tokens(self) -> list[int | None]:
        """The token of each row, None where none could be sampled; waits for the copy."""
        self.wait()
        tokens, highest = self.numbers[: 2 * self.rows].view(2, self.rows).tolist()
        return [
            int(token) if isfinite(score) else None
            for token, score in zip(tokens, highest, strict=True)
        ]

    def wait(self) -> None:
        """Wait for the copy."""
        if self.copied is not None:
            self.copied.synchronize()


def copy_to_host(output: SamplerOutput) -> PendingOutput:
    """Start copying the output to the host, without waiting.

    Work that is enqueued later on the device does not delay the copy.
    """
    parts = [output.tokens, output.highest, *(output.logprobs or ())]
    numbers = torch.cat([part.double().flatten() for part in parts])  # exact for ids and float32
    host = numbers.to("cpu", non_blocking=True)
    if numbers.device.type != "cuda":
        return PendingOutput(host, None, len(output.tokens))
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(numbers.device))
    return PendingOutput(host, copied, len(output.tokens))


def read_tokens(pending: PendingOutput, batch: SamplingBatch) -> list[SampledToken]:
    """The token of each row of the batch; waits for the copy."""
    pending.wait()
    numbers: list[float] = pending.numbers.tolist()
    tokens, highest = numbers[: batch.rows], numbers[batch.rows : 2 * batch.rows]
    listed = _listed(numbers[2 * batch.rows :], batch)
    return [
        SampledToken(int(token), listed.get(row))
        if isfinite(score)
        else SampledToken(None, None, _reason(score))
        for row, (token, score) in enumerate(zip(tokens, highest, strict=True))
    ]


def _listed(numbers: list[float], batch: SamplingBatch) -> dict[int, TokenLogprobs]:
    """The log probabilities of the rows that request them."""
    if batch.logprob_requests is None:
        return {}
    counts = batch.logprob_requests.counts
    listed = (len(numbers) // len(counts) - 1) // 2
    top, ids = len(counts), len(counts) * (1 + listed)  # offsets of these parts
    found = {}
    for place, (row, count) in enumerate(counts.items()):
        start, listed_count = place * listed, min(count, listed)
        pairs = zip(
            map(int, numbers[ids + start : ids + start + listed_count]),
            numbers[top + start : top + start + listed_count],
            strict=True,
        )
        likeliest = [(token, logprob) for token, logprob in pairs if logprob > -inf]
        found[row] = TokenLogprobs(max(numbers[place], MIN_LOGPROB), likeliest)
    return found


def _reason(highest: float) -> str:
    if highest == -inf:
        return "no token is allowed"
    return "the model's scores are not finite numbers"
