"""What the model's thread keeps of one offloaded sequence."""

from dataclasses import dataclass, field

from engine.offload.selection import CodeScale


@dataclass(eq=False, slots=True)
class OffloadedSequence:
    """What is kept of a sequence by layer, if it is `speculative`.

    `scales` are those of its keys' codes, by its prompt.
    """

    speculative: bool
    scales: dict[int, CodeScale] = field(default_factory=dict)
