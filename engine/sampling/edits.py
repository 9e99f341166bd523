"""Changes to the scores before sampling: bias, penalties, masks, grammars."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from engine.sampling.bias import Bias
from engine.sampling.grammar_masks import GrammarMasks
from engine.sampling.masks import Bans, Masks
from engine.sampling.params import SamplingParams
from engine.sampling.penalties import Penalties, has_penalties


def edits_logits(row_params: SamplingParams) -> bool:
    """Whether options or a grammar change a row's scores."""
    sampling = row_params.sampling
    return (
        row_params.automaton is not None
        or has_penalties(sampling)
        or bool(sampling.logit_bias)
        or bool(sampling.allowed)
        or bool(sampling.bad_words)
        or bool(row_params.banned)
    )


class LogitEdits(NamedTuple):
    """The changes to the scores of a group, in the order of application."""

    bias: Bias | None
    penalties: Penalties | None
    masks: Masks | None
    bans: Bans | None
    grammars: GrammarMasks | None = None

    @classmethod
    def of(
        cls,
        params: Sequence[SamplingParams],
        vocabulary: int,
        device: torch.device,
        grammar_masks: Tensor | None = None,
    ) -> Self:
        """The changes for these rows; `grammar_masks` has one for each that follows a grammar."""
        arguments = params, vocabulary, device
        return cls(
            Bias.of(*arguments),
            Penalties.of(*arguments),
            Masks.of(*arguments),
            Bans.of(*arguments),
            None if grammar_masks is None else GrammarMasks.of(params, grammar_masks, device),
        )

    def apply(self, scores: Tensor, previous: Tensor | None) -> None:
        """Change scores (rows, vocabulary) in place; `previous`: the previous step's tokens."""
        if self.bias is not None:
            self.bias.apply(scores)
        if self.penalties is not None:
            self.penalties.apply(scores, previous)
        if self.masks is not None:
            self.masks.apply(scores)
        if self.bans is not None:
            self.bans.apply(scores, previous)
        if self.grammars is not None:
            self.grammars.apply(scores)
