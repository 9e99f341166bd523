"""The tensors that hold the pages."""

from pathlib import Path

import torch

from engine.kv.store import KvShape, KvStore

CPU = torch.device("cpu")
SHAPE = KvShape(layers=2, kv_heads=3, head_dim=8)


def resident_bytes() -> int:
    """Memory of this process that is backed by the machine's."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_a_page_takes_memory_once_it_is_used() -> None:
    before = resident_bytes()
    store = KvStore(SHAPE, 1 << 18, 16, torch.float32, CPU)
    assert store.content.nbytes > 1 << 30
    store.content[:, :, :10] = 1
    assert store.content[:, :, 9:11].sum() == store.page_bytes / 4
    assert resident_bytes() - before < 64 << 20


def test_a_cleared_store_is_all_zero_and_can_be_written() -> None:
    store = KvStore(SHAPE, 4, 16, torch.bfloat16, CPU)
    store.content[:] = torch.nan
    store.clear()
    assert store.content.count_nonzero() == 0
    store.content[:, :, 3] = 2
    assert store.keys[1][3].float().mean() == 2
