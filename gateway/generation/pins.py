"""The prefixes of jobs' groups: pinned in the engine while members of the group wait or run."""

from collections.abc import Sequence
from typing import Final

import structlog
from msgspec import Struct

from engine.protocol import BACKGROUND, Pin
from gateway.generation.engines.group import EngineGroup
from gateway.generation.metrics import GatewayMetrics
from gateway.generation.request_state import RequestState
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.requests import SharedPrefix

MAX_PREFIXES: Final = 1024  # open at a time; groups beyond run without a pin

log = structlog.get_logger()


class _Group(Struct):
    """A prefix, its tokens, and the number of its members that wait or run."""

    prefix: SharedPrefix
    tokens: list[int]
    salt: str
    members: int = 0
    pinned: bool = False


class PrefixPins:
    """Pins each group's prefix with the submission that starts its first member.

    It is released when the last member has ended. Lines come in the order of their groups, so a
    runner that holds members back keeps their group open with `keep`. After a loss, or on a new
    engine, a prefix is pinned again with the next member that starts.
    """

    def __init__(self, loop: ControlLoop, engines: EngineGroup, metrics: GatewayMetrics) -> None:
        self._loop = loop
        self._engines = engines
        self._metrics = metrics
        self._groups: dict[str, _Group] = {}
        self._kept: str | None = None

    def __len__(self) -> int:
        """The number of open prefixes."""
        return len(self._groups)

    def add(self, state: RequestState) -> None:
        """Count a request that is queued as a member of its group, and set its `prefix`.

        It has none if its prompt begins otherwise than the group's, or in less than a page.
        """
        wanted = state.request.prefix
        if wanted is None:
            return
        name = name_of(state)
        group = self._groups.get(name)
        if group is None:
            length = self._whole_pages(min(wanted.tokens, len(state.prompt) - 1))
            if not length or len(self._groups) >= MAX_PREFIXES:
                return
            prefix = SharedPrefix(name, length)
            group = self._groups[name] = _Group(prefix, state.prompt[:length], state.tenant)
        elif state.prompt[: group.prefix.tokens] != group.tokens:
            log.warning("prefix_differs", prefix=name, request=str(state.id))
            return
        group.members += 1
        state.prefix = group.prefix

    def starting(self, states: Sequence[RequestState]) -> list[Pin]:
        """The pins to submit with these requests; none to several engines, or to a server."""
        if "pins" in self._engines.served.refusals:
            return []
        pins, saved = [], 0
        for state in states:
            group = self._groups.get(state.prefix.id) if state.prefix else None
            if group is None:
                continue
            if group.pinned:
                saved += group.prefix.tokens
                continue
            group.pinned = True
            self._loop.pin(group.prefix)
            pins.append(Pin(group.prefix.id, group.tokens, group.salt, BACKGROUND))
        if saved:
            self._metrics.saved(saved)
        return pins

    def ended(self, state: RequestState) -> None:
        """A request ended, in whatever way."""
        if state.prefix is not None:
            self._groups[state.prefix.id].members -= 1
            self._close(state.prefix.id)

    def keep(self, last: RequestState | None) -> None:
        """Further members of this request's group may come; of the group kept before, none."""
        before, self._kept = self._kept, last.prefix.id if last and last.prefix else None
        if before is not None:
            self._close(before)

    def lost(self, names: Sequence[str]) -> None:
        """The engine released these for lack of memory."""
        found = [group for name in names if (group := self._groups.get(name)) and group.pinned]
        self._metrics.pins_lost(len(found))
        log.warning("pins_lost", prefixes=[group.prefix.id for group in found])
        for group in found:
            self._forget(group)

    def reopen(self) -> None:
        """A new engine is connected, which has no pins."""
        for group in self._groups.values():
            if group.pinned:
                self._forget(group)

    def check(self) -> None:
        """AssertionError if a group without members is open; for tests."""
        for name, group in self._groups.items():
            assert group.members > 0 or name == self._kept

    def _close(self, name: str) -> None:
        """Release the prefix if no member is left and none is to come."""
        group = self._groups.get(name)
        if group is None or group.members or name == self._kept:
            return
        del self._groups[name]
        if group.pinned:
            self._forget(group)
            self._engines[0].unpin([name])

    def _forget(self, group: _Group) -> None:
        """The engine has no pin of this prefix any more."""
        group.pinned = False
        self._loop.unpin(group.prefix.id)

    def _whole_pages(self, tokens: int) -> int:
        page = self._engines.served.kv.page_tokens if self._engines.info else 1
        return tokens // page * page


def name_of(state: RequestState) -> str:
    """The name of a request's prefix in the engine: tenants do not share prefixes."""
    assert state.request.prefix is not None
    return f"{state.tenant}.{state.request.prefix.id}"
