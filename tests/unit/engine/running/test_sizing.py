"""The KV pool's size on a CPU."""

import math
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from structlog.typing import EventDict

from engine.errors import StartupFailure
from engine.kv.store import KvShape
from engine.running.host_memory import available_bytes
from engine.running.sizing import pool_pages
from engine.settings import Settings

MIB = 1 << 20
MODEL = SimpleNamespace(
    device=torch.device("cpu"),
    dtype=torch.float32,
    context_tokens=8192,
    kv_shape=KvShape(layers=16, kv_heads=4, head_dim=8),  # 4 KiB a token, 32 MiB a context
)


def tokens(available: int, **settings: float) -> int:
    found = Settings(model="m", engine_socket="s", **settings)
    return pool_pages(MODEL, found, lambda: available) * found.page_tokens


def test_the_pool_is_a_share_of_the_memory() -> None:
    assert tokens(1000 * MIB, kv_memory_share=0.5) == 500 * 256
    assert tokens(1000 * MIB) == 300 * 256


def test_a_configured_size_is_taken_whatever_memory_there_is() -> None:
    assert tokens(1, kv_tokens=4096) == 4096


def test_the_pool_is_no_larger_than_all_running_sequences_can_fill() -> None:
    assert tokens(1 << 40) == 64 * 8192
    assert tokens(1 << 40, max_running=3) == 64 * 8192  # it does not bound background ones
    assert tokens(1 << 40, max_running=70) == 70 * 8192


def test_one_context_may_exceed_the_share() -> None:
    assert tokens(40 * MIB) == 8192


def test_too_little_memory_for_a_context_limits_it_with_a_warning(
    events_logged: list[EventDict],
) -> None:
    assert tokens(20 * MIB) == 18 * 256
    [event] = events_logged
    assert (event["event"], event["context_tokens"]) == ("context_limited", 18 * 256)
    assert "20 MiB of memory are available" in event["reason"]


def test_too_little_memory_for_a_step_is_an_error_that_names_the_numbers() -> None:
    with pytest.raises(StartupFailure, match=r"1 MiB of memory are available.* takes 32 MiB"):
        tokens(MIB)


def a_group(folder: Path, names: tuple[str, str, str], limit: str, usage: int, files: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(
        (names[0], names[1], "memory.stat"),
        (limit, str(usage), f"anon 1\n{names[2]} {files}\n"),
        strict=True,
    ):
        (folder / name).write_text(content)


V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    membership = tmp_path / "self"
    membership.write_text("0::/outer/inner\n")
    a_group(tmp_path / "outer", V2, f"{100 * MIB}", 60 * MIB, 10 * MIB)
    a_group(tmp_path / "outer/inner", V2, "max", 60 * MIB, 0)
    assert available_bytes(tmp_path, membership) == 50 * MIB


def test_a_container_finds_its_limit_at_the_root(tmp_path: Path) -> None:
    membership = tmp_path / "self"
    membership.write_text("12:cpu:/docker/1\n4:memory:/docker/1\n")
    a_group(tmp_path / "memory", V1, f"{64 * MIB}", 40 * MIB, 0)
    assert available_bytes(tmp_path, membership) == 24 * MIB


def test_without_a_limit_the_host_counts(tmp_path: Path) -> None:
    available = available_bytes(tmp_path, tmp_path / "none")
    assert math.isclose(available, psutil.virtual_memory().available, rel_tol=0.5)
