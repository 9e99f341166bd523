"""How many lines of jobs a gateway holds: about twice what the KV memory of its engine holds."""

from typing import Final

POOLS: Final = 2  # what is queued and runs, in what the KV memory holds
MAX_LINES: Final = 4096  # in this process, whatever the memory holds
CHUNK: Final = 256  # lines of one claim
FIRST_CHUNK: Final = 16  # while the size of a line is unknown
SIZE_DECAY: Final = 0.98  # per line, of the mean size of a line


class LineBound:
    """How many lines to claim next, from the size of the lines before."""

    def __init__(self) -> None:
        self._line_tokens: float | None = None  # mean of recent lines

    def queued(self, tokens: float) -> None:
        """A line was queued that needs this many tokens of KV memory of its own."""
        known = tokens if self._line_tokens is None else self._line_tokens
        self._line_tokens = SIZE_DECAY * known + (1 - SIZE_DECAY) * tokens

    def room(self, pool_tokens: int, needed: float, claimed: int, held: int) -> int:
        """How many lines there is room for, at most one claim.

        `needed`: tokens that the held lines need, each shared prefix once. `claimed` lines are not
        queued yet, and `held` ones are queued or run.
        """
        most = MAX_LINES - claimed - held
        if self._line_tokens is None:
            return min(FIRST_CHUNK - claimed - held, most)
        left = POOLS * pool_tokens - needed
        return min(int(left / self._line_tokens) - claimed, most, CHUNK)


def worth_claiming(room: int, claimed: int, held: int) -> bool:
    """Whether to claim: a few lines at a time would cost more than they gain."""
    if room < 1 or claimed:
        return False
    return not held or room >= min(CHUNK, held) // 8
