"""What became of a step's rows, on the host."""

from math import inf, isfinite
from typing import Final, NamedTuple

import torch
from torch import Tensor

from engine.protocol import TokenLogprobs
from engine.sampling.batch import Batch
from engine.sampling.drawing import Drawn

LEAST: Final = -9999.0  # for minus infinity, which JSON has no word for


class Outcome(NamedTuple):
    """The token a row drew, or why there is none."""

    token: int | None
    logprobs: TokenLogprobs | None = None
    reason: str = ""


class Pulled(NamedTuple):
    """What was drawn, on its way to the host in one piece."""

    numbers: Tensor  # float64: tokens, highest scores, then what the rows with logprobs have
    landed: torch.cuda.Event | None


def pull(drawn: Drawn) -> Pulled:
    """Start to move what was drawn to the host; does not wait for it.

    What the device is given to do afterwards does not delay it.
    """
    parts = [drawn.tokens, drawn.highest, *(drawn.logprobs or ())]
    numbers = torch.cat([part.double().flatten() for part in parts])  # exact for ids and float32
    host = numbers.to("cpu", non_blocking=True)
    if numbers.device.type != "cuda":
        return Pulled(host, None)
    landed = torch.cuda.Event()
    landed.record(torch.cuda.current_stream(numbers.device))
    return Pulled(host, landed)


def read(pulled: Pulled, batch: Batch) -> list[Outcome]:
    """What each row of the batch drew; waits until that is known."""
    if pulled.landed is not None:
        pulled.landed.synchronize()
    numbers: list[float] = pulled.numbers.tolist()
    tokens, highest = numbers[: batch.rows], numbers[batch.rows : 2 * batch.rows]
    listed = _listed(numbers[2 * batch.rows :], batch)
    return [
        Outcome(int(token), listed.get(row))
        if isfinite(score)
        else Outcome(None, None, _why(score))
        for row, (token, score) in enumerate(zip(tokens, highest, strict=True))
    ]


def _listed(numbers: list[float], batch: Batch) -> dict[int, TokenLogprobs]:
    """The log probabilities of the rows that want them."""
    if batch.wanted is None:
        return {}
    counts = batch.wanted.counts
    listed = (len(numbers) // len(counts) - 1) // 2
    top, ids = len(counts), len(counts) * (1 + listed)  # where these begin
    found = {}
    for place, (row, count) in enumerate(counts.items()):
        start, few = place * listed, min(count, listed)
        pairs = zip(
            map(int, numbers[ids + start : ids + start + few]),
            numbers[top + start : top + start + few],
            strict=True,
        )
        likeliest = [(token, logprob) for token, logprob in pairs if logprob > -inf]
        found[row] = TokenLogprobs(max(numbers[place], LEAST), likeliest)
    return found


def _why(highest: float) -> str:
    if highest == -inf:
        return "no token is allowed"
    return "the model's scores are not finite numbers"
