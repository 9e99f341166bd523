import asyncio
import gc
from collections.abc import Iterator
from math import prod

import psutil
import pytest

from gateway.garbage import return_freed_memory, search_seldom

USUAL = (700, 10, 10)  # of Python 3.11


@pytest.fixture(autouse=True)
def usual_searches() -> Iterator[None]:
    gc.set_threshold(*USUAL)
    yield
    gc.unfreeze()
    gc.set_threshold(*USUAL)


def test_what_exists_at_the_start_is_never_searched() -> None:
    existing: list[object] = []
    search_seldom()
    later: list[object] = []
    searched = gc.get_objects()
    assert not any(each is existing for each in searched)
    assert any(each is later for each in searched)


def test_all_is_searched_more_seldom_than_by_default() -> None:
    search_seldom()
    young, middle, old = gc.get_threshold()
    assert young * (middle + 1) * old > 50 * prod(USUAL)


async def test_memory_that_a_thread_freed_goes_back_to_the_system() -> None:
    process = psutil.Process()

    def use() -> int:
        held = [bytes(4096) for _ in range(16_384)]  # 64 MiB in small pieces, and one that stays
        kept.append(bytes(4096))
        return len(held)

    kept: list[bytes] = []
    await asyncio.to_thread(use)
    before = process.memory_info().rss
    await return_freed_memory()
    assert process.memory_info().rss < before - (32 << 20)
