"""The memory ledger: what is held privately, what is shared, what is pinned, what is on the host.

A sequence with a shared prefix holds only the pages after it: ⌈tokens/page⌉ - prefix pages. The
prefix is held once, while it is pinned or while any sequence that shares it runs.
"""

from collections.abc import Iterable

from msgspec import Struct

from gateway.scheduling.requests import QueuedRequest, RunningSequence, SharedPrefix


def prefix_pages(prefix: SharedPrefix | None, page_tokens: int) -> int:
    """Whole pages of a prefix; 0 for none."""
    return 0 if prefix is None else prefix.tokens // page_tokens


class HeldPages(Struct, frozen=True):
    """The pages of all sequences in the engine, by kind.

    `private` pages belong to one running sequence. `shared` ones are prefixes of running sequences,
    `pinned` ones are prefixes that are pinned, with or without them; each prefix counts once.
    `host` pages belong to preempted sequences: they hold nothing in the pool until they resume, and
    were copied to host memory or will be computed again.
    """

    private: int = 0
    shared: int = 0
    pinned: int = 0
    host: int = 0

    @property
    def in_pool(self) -> int:
        """Pages held in the pool."""
        return self.private + self.shared + self.pinned


def held_pages(
    running: Iterable[RunningSequence], pinned: Iterable[SharedPrefix], page_tokens: int
) -> HeldPages:
    """What these sequences and pins hold now."""
    private = host = 0
    shared: dict[str, int] = {}
    for sequence in running:
        prefix = sequence.prefix
        own = -(-sequence.kv_tokens // page_tokens) - prefix_pages(prefix, page_tokens)
        if sequence.suspended:
            host += own
            continue
        private += own
        if prefix is not None:
            shared[prefix.id] = prefix_pages(prefix, page_tokens)
    pins = {prefix.id: prefix_pages(prefix, page_tokens) for prefix in pinned}
    only_shared = sum(pages for key, pages in shared.items() if key not in pins)
    return HeldPages(private, only_shared, sum(pins.values()), host)


class SharedPrefixes:
    """The prefixes that are held, by whom: each counts once, pinned or not."""

    def __init__(self) -> None:
        self.pinned: dict[str, SharedPrefix] = {}
        self._members: dict[str, set[str]] = {}  # of each prefix
        self._prefix_of: dict[str, SharedPrefix] = {}  # of each member

    def __bool__(self) -> bool:
        return bool(self.pinned or self._prefix_of)

    def holds(self, prefix_id: str) -> bool:
        """Whether the prefix is pinned or has a member."""
        return prefix_id in self.pinned or prefix_id in self._members

    def pin(self, prefix: SharedPrefix) -> None:
        """Hold a prefix until it is unpinned."""
        self.pinned[prefix.id] = prefix

    def unpin(self, prefix_id: str) -> None:
        """End a pin; an unknown one is ignored."""
        self.pinned.pop(prefix_id, None)

    def reset(self, running: Iterable[QueuedRequest | RunningSequence]) -> None:
        """Start again from these members; pins stay."""
        self._members.clear()
        self._prefix_of.clear()
        for each in running:
            if each.prefix is not None:
                self.join(each.id, each.prefix)

    def join(self, member: str, prefix: SharedPrefix) -> None:
        """A member started."""
        self._prefix_of[member] = prefix
        self._members.setdefault(prefix.id, set()).add(member)

    def leave(self, member: str) -> SharedPrefix | None:
        """A member ended; returns its prefix. An unknown one is ignored."""
        prefix = self._prefix_of.pop(member, None)
        if prefix is not None:
            members = self._members[prefix.id]
            members.discard(member)
            if not members:
                del self._members[prefix.id]
        return prefix

    def missing_pages(self, prefix: SharedPrefix | None, page_tokens: int) -> int:
        """Pages that a new member adds for its prefix: none if the prefix is held."""
        if prefix is None or self.holds(prefix.id):
            return 0
        return prefix_pages(prefix, page_tokens)

    def pages(self, page_tokens: int) -> int:
        """Pages of all prefixes that are held."""
        held = {prefix.id: prefix for prefix in self._prefix_of.values()} | self.pinned
        return sum(prefix_pages(prefix, page_tokens) for prefix in held.values())

    def pinned_pages(self, page_tokens: int, *, without: SharedPrefix | None = None) -> int:
        """Pages of all pins, without those of one prefix."""
        skipped = None if without is None else without.id
        pins = self.pinned.items()
        return sum(prefix_pages(prefix, page_tokens) for key, prefix in pins if key != skipped)
