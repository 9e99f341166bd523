"""The life of pins in a replay: the rules of the live gateway (`gateway.generation.pins`)."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.requests import QueuedRequest, SharedPrefix


class _Group(Struct):
    """A prefix, and the number of its members that wait or run."""

    prefix: SharedPrefix
    members: int = 0
    pinned: bool = False


class PrefixPins:
    """Pins each group's prefix with its first member that starts, until the last has ended.

    The group of the line that was queued last is kept open, as further members may come. A lost
    pin is made again with the next member that starts.
    """

    def __init__(self, loop: ControlLoop) -> None:
        self.made = 0
        self._loop = loop
        self._groups: dict[str, _Group] = {}
        self._kept: str | None = None

    def add(self, request: QueuedRequest) -> list[str]:
        """A line is queued; returns the prefixes to unpin."""
        prefix = request.prefix
        if prefix is not None:
            self._groups.setdefault(prefix.id, _Group(prefix)).members += 1
        return self.keep(None if prefix is None else prefix.id)

    def keep(self, name: str | None) -> list[str]:
        """Further members of this group may come; returns the prefixes to unpin."""
        before, self._kept = self._kept, name
        return self._close(before)

    def starting(self, requests: Iterable[QueuedRequest]) -> list[SharedPrefix]:
        """The pins to make with these lines."""
        pins = []
        for request in requests:
            group = self._groups.get(request.prefix.id) if request.prefix else None
            if group is not None and not group.pinned:
                group.pinned = True
                self.made += 1
                self._loop.pin(group.prefix)
                pins.append(group.prefix)
        return pins

    def ended(self, request: QueuedRequest) -> list[str]:
        """A line ended; returns the prefixes to unpin."""
        if request.prefix is None:
            return []
        self._groups[request.prefix.id].members -= 1
        return self._close(request.prefix.id)

    def lost(self, names: Sequence[str]) -> None:
        """The engine released these, or did not make them."""
        for name in names:
            group = self._groups.get(name)
            if group is not None and group.pinned:
                group.pinned = False
                self._loop.unpin(name)

    def _close(self, name: str | None) -> list[str]:
        group = None if name is None else self._groups.get(name)
        if name is None or group is None or group.members or name == self._kept:
            return []
        del self._groups[name]
        if not group.pinned:
            return []
        self._loop.unpin(name)
        return [name]
