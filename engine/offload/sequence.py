"""What the model's thread keeps of one offloaded sequence."""

from dataclasses import dataclass, field

from torch import Tensor

from engine.offload.staging import StagedTokens


@dataclass(eq=False, slots=True)
class StagedLayer:
    """The tokens of a layer that are on the device: `content` (kv_heads, slots, 2 · head_dim)."""

    tokens: StagedTokens
    content: Tensor | None = None


@dataclass(eq=False, slots=True)
class OffloadedSequence:
    """The choices of a sequence by layer: made on its prompt, used for each of its answer's tokens.

    `query_energy` is that of its prompt's queries, `dims` the dimensions of partial keys, `staged`
    what is on the device. A sequence that is not `speculative` has none of them.
    """

    speculative: bool
    query_energy: dict[int, Tensor] = field(default_factory=dict)
    dims: dict[int, Tensor] = field(default_factory=dict)
    staged: dict[int, StagedLayer] = field(default_factory=dict)
