"""Which prefixes of prompts an engine has, by what it was sent: bounded, the oldest use forgotten.

A prompt is known by the hashes of its leading blocks of `BLOCK_TOKENS` tokens; each hash covers the
prompt from its start to the block's end, so equal hashes mean equal prefixes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

BLOCK_TOKENS: Final = 16
MAX_BLOCKS: Final = 256  # of a prompt; what follows is not looked for
MAX_TOKENS: Final = MAX_BLOCKS * BLOCK_TOKENS


def blocks_of(prompt: Sequence[int], salt: str) -> tuple[int, ...]:
    """The hashes of a prompt's leading blocks; prompts of another salt share none.

    They depend on the process that computes them.
    """
    block = hash(salt)
    blocks = []
    for start in range(0, min(len(prompt), MAX_TOKENS) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        block = hash((block, *prompt[start : start + BLOCK_TOKENS]))
        blocks.append(block)
    return tuple(blocks)


class PrefixIndex:
    """The blocks that each of E engines is likely to have."""

    def __init__(self, engines: int) -> None:
        self._blocks: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(engines)]
        self._room = [0] * engines  # blocks
        self._owners: dict[int, int] = {}  # of a block: bit e is set if engine e has it

    def resize(self, engine: int, tokens: int) -> None:
        """Set how many tokens an engine keeps at most."""
        self._room[engine] = tokens // BLOCK_TOKENS
        self._forget_oldest(engine)

    def sent(self, engine: int, blocks: Sequence[int]) -> None:
        """A prompt with these leading blocks is sent to an engine."""
        held, bit = self._blocks[engine], 1 << engine
        for block in reversed(blocks[:MAX_BLOCKS]):  # the start of a prompt is forgotten last
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                self._owners[block] = self._owners.get(block, 0) | bit
        self._forget_oldest(engine)

    def known_tokens(self, blocks: Sequence[int]) -> list[int]:
        """The tokens from the start of this prompt that each engine has: (E,)."""
        known = [0] * len(self._blocks)
        owners = self._owners.get(blocks[0], 0) if blocks else 0
        if not owners:
            return known
        tokens = 0
        for block in blocks[:MAX_BLOCKS]:
            still = owners & self._owners.get(block, 0)
            self._note(known, owners & ~still, tokens)
            owners = still
            if not owners:
                return known
            tokens += BLOCK_TOKENS
        self._note(known, owners, tokens)
        return known

    def forget(self, engine: int) -> None:
        """An engine was lost, and what it had with it."""
        for block in self._blocks[engine]:
            self._disown(engine, block)
        self._blocks[engine].clear()

    def check(self) -> None:
        """AssertionError if the two directions disagree; for tests."""
        for engine, held in enumerate(self._blocks):
            assert len(held) <= self._room[engine]
            owned = {block for block, owners in self._owners.items() if owners >> engine & 1}
            assert owned == set(held)
        assert all(self._owners.values())

    @staticmethod
    def _note(known: list[int], owners: int, tokens: int) -> None:
        while owners:
            engine = owners.bit_length() - 1
            known[engine] = tokens
            owners ^= 1 << engine

    def _forget_oldest(self, engine: int) -> None:
        held = self._blocks[engine]
        while len(held) > self._room[engine]:
            block, _ = held.popitem(last=False)
            self._disown(engine, block)

    def _disown(self, engine: int, block: int) -> None:
        owners = self._owners[block] & ~(1 << engine)
        if owners:
            self._owners[block] = owners
        else:
            del self._owners[block]
