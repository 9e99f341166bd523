"""Freed memory: when the interpreter searches for garbage, and when the system gets memory back."""

import asyncio
import ctypes
import gc
from typing import Final

YOUNG: Final = 700  # objects, net of those freed, from one search of the newest to the next
MIDDLE: Final = 5  # such searches per search of those that survived one: about 1 ms
OLD: Final = 1_000  # searches of these per search of all, which takes 25 to 80 ms under load


def search_seldom() -> None:
    """Exempt the objects that exist now from searches, and search the others seldom.

    Libraries and routes are 200,000 objects, and to search them takes 0.1 s. What a request needs
    is freed when nothing refers to it any more: it has no cycles, except few small ones of
    libraries. So all may be searched after some 25,000 requests, not after 1,000.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)


async def return_freed_memory() -> None:
    """Give memory that large objects took for a while back to the system.

    glibc keeps it, for each thread that used it: tens of MB for each thread that decoded a version
    of the predictor. Other C libraries return it by themselves.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        await asyncio.to_thread(trim, 0)
