"""What the drawing of one token is asked to heed."""

from collections.abc import Sequence
from typing import NamedTuple

from engine.protocol import Sampling
from engine.sampling.constraint import Constraint


class Draw(NamedTuple):
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
