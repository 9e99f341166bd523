"""Masks of the tokens that a grammar allows next.

They depend on the token that the previous step samples, so they are filled while the step runs, in
another thread, and applied before its tokens are sampled.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import embedding

from engine.grammar.automaton import Automaton
from engine.sampling.params import SamplingParams
from engine.sampling.transfer import to_device

BITS: Final = 32  # of a word of a mask
# The penalties of the eight tokens of a byte of a mask: 0 where its bit is set, else -inf.
PENALTIES: Final = torch.where(
    torch.arange(256)[:, None] >> torch.arange(8) & 1 > 0, 0.0, -torch.inf
)  # (256, 8)


class GrammarRow(NamedTuple):
    """A row of a step whose token a grammar limits.

    `restart`: the generated tokens, if its automaton has to follow them from the start.
    """

    row: int
    automaton: Automaton
    restart: list[int] | None


class StepGrammars(NamedTuple):
    """The rows of a step that follow a grammar, in the order of the groups, and their masks.

    `masks` are (rows, words) int32 in host memory: bit b of word w is token 32 w + b. They are
    filled while the step runs.
    """

    rows: tuple[GrammarRow, ...]
    masks: Tensor

    @classmethod
    def of(
        cls, order: Sequence[int], params: Sequence[SamplingParams], device: torch.device
    ) -> Self | None:
        """Of the rows of a step, in this order; None if none follows a grammar."""
        rows = tuple(
            GrammarRow(row, automaton, params[row].restart)
            for row in order
            if (automaton := params[row].automaton) is not None
        )
        if not rows:
            return None
        words = -(-rows[0].automaton.width // BITS)
        pinned = device.type == "cuda"  # so that the copy to the device does not wait for it
        return cls(rows, torch.empty(len(rows), words, dtype=torch.int32, pin_memory=pinned))

    def masks_of(self, group: Sequence[int]) -> Tensor | None:
        """The masks of a group's rows: a part of `masks`."""
        members = set(group)
        places = [place for place, each in enumerate(self.rows) if each.row in members]
        return self.masks[places[0] : places[-1] + 1] if places else None


class GrammarMasks(NamedTuple):
    """The rows of a group that follow a grammar, and their masks in host memory."""

    rows: Tensor  # (masked,)
    masks: Tensor  # (masked, words) int32

    @classmethod
    def of(
        cls, params: Sequence[SamplingParams], masks: Tensor, device: torch.device
    ) -> Self | None:
        """The masks of these rows, or None; `masks` has one for each that follows a grammar."""
        rows = [row for row, row_params in enumerate(params) if row_params.automaton is not None]
        return cls(to_device(torch.tensor(rows), device), masks) if rows else None

    def apply(self, scores: Tensor) -> None:
        """Mask tokens in scores (rows, vocabulary), in place; the masks must be filled."""
        masks = self.masks.to(scores.device, non_blocking=True)
        penalties = embedding(masks.view(torch.uint8).int(), PENALTIES.to(scores.device))
        penalty = penalties.flatten(1)[:, : scores.shape[-1]]  # addition preserves NaN
        if len(self.rows) == len(scores):
            scores.add_(penalty)
        else:
            scores.index_add_(0, self.rows, penalty)
