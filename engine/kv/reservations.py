"""The peak KV memory of running sequences if each grows to its reservation.

S³ (arXiv 2306.06000) reserves the predicted length of each sequence from its start. Here
reservations are checked at each future step: a sequence may grow into memory that another one frees
before. The composer handles sequences that outgrow their reservation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class KvReservation(NamedTuple):
    """Of one sequence: tokens held now, tokens still to generate, and pages that it shares."""

    tokens: int
    remaining: int
    shared: int = 0


def peak_pages(reservations: Sequence[KvReservation], page_tokens: int) -> int:
    """The peak page use while all reservations grow by a token per step and end; 0 for none.

    Use falls only when a sequence ends, so the peak is at the last step of one of them.
    """
    if not reservations:
        return 0
    tokens, remaining, shared = np.array(reservations, dtype=np.int64).T
    ends = np.unique(remaining)[:, None]  # (distinct ends, 1)
    pages = -(-(tokens + ends) // page_tokens) - shared  # (distinct ends, reservations)
    return int(np.where(remaining >= ends, pages, 0).sum(1).max())


def final_pages(reservation: KvReservation, page_tokens: int) -> int:
    """Private pages that a sequence holds at its end."""
    return -(-(reservation.tokens + reservation.remaining) // page_tokens) - reservation.shared
