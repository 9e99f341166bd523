"""A model that is fed a text token by token, whatever it would have generated."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from engine.attention.interface import Attention, Context, LayerAttention
from engine.networks.interface import Foresight, Packed
from engine.offload.attention import OffloadAttention
from engine.offload.sequence import OffloadedSequence
from engine.running.loaded_model import LoadedModel

CHUNK_TOKENS = 512


@dataclass
class Device:
    """A sequence on the device: its attention, and the pages of its tokens."""

    attention: Attention[Any]
    pages: Sequence[int]

    def plan(self, context: Context) -> tuple[LayerAttention[Any], Any, Foresight | None]:
        """The attention of a step, its plan, and what it wants early."""
        return self.attention, self.attention.plan([context]), None


@dataclass
class Host:
    """A sequence in host memory."""

    attention: OffloadAttention
    pages: Sequence[int]
    speculative: bool
    sequence: OffloadedSequence = field(init=False)

    def __post_init__(self) -> None:
        self.sequence = OffloadedSequence(self.speculative)

    def plan(self, context: Context) -> tuple[LayerAttention[Any], Any, Foresight | None]:
        """The attention of a step, its plan, and what it wants early."""
        plan = self.attention.plan_with(None, [context], [self.sequence])
        wanted = None
        if plan.foreseen_rows is not None:
            wanted = Foresight(plan.foreseen_rows, partial(self.attention.foresee, plan))
        return self.attention, plan, wanted


def feed(
    model: LoadedModel, place: Device | Host, ids: Sequence[int], start: int, stop: int
) -> Tensor:
    """Compute tokens `start` … `stop - 1` in one step: the logits of the last, (vocabulary,)."""
    attention, plan, foresight = place.plan(Context(start, stop - start, place.pages))
    with torch.inference_mode():
        packed = Packed(
            token_ids=torch.tensor(ids[start:stop]),
            positions=torch.arange(start, stop),
            sample_rows=torch.tensor([stop - start - 1]),
            plan=plan,
            carry=None,
            foresight=foresight,
        )
        return model.network(packed, attention)[0]


def read_prompt(model: LoadedModel, place: Device | Host, ids: Sequence[int], tokens: int) -> None:
    """Compute the first tokens of a text, in chunks."""
    for start in range(0, tokens, CHUNK_TOKENS):
        feed(model, place, ids, start, min(start + CHUNK_TOKENS, tokens))
