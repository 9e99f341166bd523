"""The next token of every sequence in a step, drawn at once.

Randomness is a pure function of a sequence's seed and the drawn token's position: neither the
batch around it nor a preemption changes what is drawn from the same logits.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.protocol import Sampling

COLDEST: Final = 1e-5  # below this temperature the likeliest token is taken
_WORD: Final = 2**64 - 1


class Draw(NamedTuple):
    """How one row's token is drawn, and its position in the sequence."""

    sampling: Sampling
    position: int


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[int | None]:
    """One token for each row of logits (rows, vocabulary); None where its highest is no number."""
    scores = logits.float()
    finite = torch.isfinite(scores.amax(-1))
    tokens = scores.argmax(-1)
    warm = [row for row, draw in enumerate(draws) if draw.sampling.temperature >= COLDEST]
    if warm:
        rows = torch.tensor(warm, device=scores.device)
        tokens[rows] = _draw(scores[rows], [draws[row] for row in warm])
    return [
        token if whole else None
        for token, whole in zip(tokens.tolist(), finite.tolist(), strict=True)
    ]


def _draw(scores: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Inverse transform sampling within the nucleus: (rows, vocabulary) gives (rows,) tokens.

    The nucleus is the likeliest tokens up to the first that brings them to `top_p` (Holtzman et
    al., arXiv 1904.09751).
    """
    device = scores.device
    temperature = torch.tensor([[d.sampling.temperature] for d in draws], device=device)
    top_p = torch.tensor([[d.sampling.top_p] for d in draws], device=device, dtype=torch.float64)
    chance = torch.from_numpy(uniforms(draws)).to(device)[:, None]
    scaled = (scores - scores.amax(-1, keepdim=True)) / temperature
    likely, order = torch.softmax(scaled.double(), -1).sort(stable=True, dim=-1, descending=True)
    likely = likely.masked_fill(likely.cumsum(-1) - likely >= top_p, 0.0)
    below = likely.cumsum(-1)
    place = torch.searchsorted(below, chance * below[:, -1:], right=True)
    drawn = order.gather(-1, place.clamp_(max=scores.shape[-1] - 1))  # (rows, 1)
    return drawn[:, 0]


def uniforms(draws: Sequence[Draw]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A number in [0, 1) for each draw, the same for the same seed and position."""
    words = [_mix(_mix(draw.sampling.seed & _WORD) + draw.position) for draw in draws]
    return np.array([(word >> 12) * 2.0**-52 for word in words])


def _mix(word: int) -> int:
    """The splitmix64 generator's output for a state (Steele et al., OOPSLA 2014)."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
