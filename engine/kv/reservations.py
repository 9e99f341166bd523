"""How much KV memory running sequences will hold at once, if each keeps its reservation.

S³ (arXiv 2306.06000) promises every sequence its predicted length from the start. The promise
here is for each step to come: what one sequence still has to grow may be what another gives back
before. A sequence that outgrows its reservation is the supervisor's business.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class KvReservation(NamedTuple):
    """A sequence's hold on memory: tokens kept now, tokens still to come, pages not its own."""

    tokens: int
    remaining: int
    shared: int = 0


def peak_pages(reservations: Sequence[KvReservation], page_tokens: int) -> int:
    """Most pages held at once while all claims grow a token a step and end; 0 for none.

    Use only falls when a sequence ends, so the peak is at the last step of one of them.
    """
    if not reservations:
        return 0
    tokens, remaining, shared = np.array(reservations, dtype=np.int64).T
    ends = np.unique(remaining)[:, None]  # (distinct ends, 1)
    pages = -(-(tokens + ends) // page_tokens) - shared  # (distinct ends, claims)
    return int(np.where(remaining >= ends, pages, 0).sum(1).max())


def final_pages(reservation: KvReservation, page_tokens: int) -> int:
    """Pages of its own that a sequence holds at its end."""
    return -(-(reservation.tokens + reservation.remaining) // page_tokens) - reservation.shared
