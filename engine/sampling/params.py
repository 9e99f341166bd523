"""What the drawing of one token is asked to heed."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from engine.protocol import Sampling
from engine.sampling.constraint import Constraint


class SamplingParams(NamedTuple):
    """How one row's token is drawn.

    `position` is the index of the token to be drawn in its sequence. `prompt` and `generated` are
    read only under penalties and constraints. `carried` is the row of the previous step that drew
    this sequence's newest token, where the host does not know that token yet; `generated` is then
    without it.
    """

    sampling: Sampling
    position: int
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    carried: int | None = None
    constraint: Constraint | None = None


GREEDY: Final = SamplingParams(
    Sampling(), position=0
)  # of a row that takes the likeliest token, no more


def is_greedy(sampling: Sampling) -> bool:
    """Whether `GREEDY` says all there is to say of these options."""
    return msgspec.structs.replace(sampling, seed=0) == GREEDY.sampling


def needs_history(sampling: Sampling) -> bool:
    """Whether drawing the next token depends on the tokens before."""
    penalties = (sampling.presence_penalty, sampling.frequency_penalty)
    return any(penalties) or sampling.repetition_penalty != 1
