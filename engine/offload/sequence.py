"""What the model's thread keeps of one offloaded sequence."""

from dataclasses import dataclass, field

from torch import Tensor

from engine.offload.selection import CodeScale
from engine.offload.staging import StagedTokens


@dataclass(eq=False, slots=True)
class StagedLayer:
    """The tokens of a layer that are on the device: `content` (kv_heads, slots, 2 · head_dim)."""

    tokens: StagedTokens
    content: Tensor | None = None


@dataclass(eq=False, slots=True)
class OffloadedSequence:
    """What is kept of a sequence by layer, if it is `speculative`.

    `scales` are those of its keys' codes, by its prompt; `staged` is what is on the device.
    """

    speculative: bool
    scales: dict[int, CodeScale] = field(default_factory=dict)
    staged: dict[int, StagedLayer] = field(default_factory=dict)
