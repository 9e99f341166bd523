"""Memory that this process can still use, within the limits of its container."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psutil

CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


class _Files(NamedTuple):
    """Names of a control group's files, and of the reclaimable part in its statistics."""

    limit: str
    usage: str
    reclaimable: str


V1: Final = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2: Final = _Files("memory.max", "memory.current", "inactive_file")


def available_bytes(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes that can be allocated: the least of what the host and each control group leave."""
    host: int = psutil.virtual_memory().available
    return max(0, min([host, *_left_by_groups(root, membership)]))


def _left_by_groups(root: Path, membership: Path) -> Iterator[int]:
    """What each control group with a limit leaves, from this process's own to the root."""
    if not membership.is_file():  # no Linux
        return
    for line in membership.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers not in {"", "memory"}:
            continue
        files, top = (V2, root) if not controllers else (V1, root / controllers)
        group = top / name.lstrip("/")
        # A container sees its own group as the root, under a name that may not exist in it.
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield from _left(folder, files)


def _left(folder: Path, files: _Files) -> Iterator[int]:
    """Limit less usage; the kernel reclaims the pages of files first."""
    try:
        limit = (folder / files.limit).read_text().strip()
        usage = int((folder / files.usage).read_text())
        statistics = (folder / "memory.stat").read_text().splitlines()
    except OSError:  # no such group, or no such controller in it
        return
    if limit == "max":
        return
    counts = dict(line.split(maxsplit=1) for line in statistics)
    yield int(limit) - usage + int(counts.get(files.reclaimable, 0))
