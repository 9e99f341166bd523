"""Drawing the next token of every sequence of a step at once.

`prepare` runs on the host ahead of a step, `draw_tokens` and `pull` behind its forward pass on the
device, without waiting for it; `read` waits.
"""

from engine.sampling.batch import Batch, prepare
from engine.sampling.constraint import Constraint
from engine.sampling.draw import GREEDY, Draw, greedy, looks_back
from engine.sampling.drawing import Drawn, draw_tokens
from engine.sampling.outcome import Outcome, Pulled, pull, read

__all__ = [
    "GREEDY",
    "Batch",
    "Constraint",
    "Draw",
    "Drawn",
    "Outcome",
    "Pulled",
    "draw_tokens",
    "greedy",
    "looks_back",
    "prepare",
    "pull",
    "read",
]
