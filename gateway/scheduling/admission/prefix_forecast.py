"""The future KV use of shared prefixes: pages · P(any member alive), whole while pinned.

Members live independently, so P(any alive) = 1 - Π(1 - aliveᵢ). A prefix that lives does so
together with its members: their covariance adds 2·prefix·P(none alive)·Σ E[ownᵢ] to the variance.
Products are kept as sums of logarithms, so a member joins and leaves in one pass over the steps.
"""

from typing import Final

import numpy as np
from msgspec import Struct

from gateway.quantiles import Floats
from gateway.scheduling.admission.ledger import SharedPrefixes, prefix_pages
from gateway.scheduling.requests import SharedPrefix

MIN_ABSENCE: Final = 1e-15  # bounds ln P(a member is gone) where it certainly lives


class MemberUse(Struct, frozen=True):
    """ln P(gone), and the mean of a member's own pages, in each interval ahead: (H,) each."""

    absence: Floats
    own: Floats


class PrefixUse(Struct, frozen=True):
    """Mean and variance of the pages that a prefix adds in each interval ahead: (H,) each."""

    mean: Floats
    variance: Floats


class _Group(Struct):
    """The members of a prefix, summed."""

    absence: Floats
    own: Floats
    use: PrefixUse


def member_use(survival: Floats, own: Floats) -> MemberUse:
    """A member with this survival, (H,), and this mean of own pages."""
    return MemberUse(np.log(np.maximum(1.0 - survival, MIN_ABSENCE)), own)


class PrefixForecast:
    """The prefixes of running sequences, and the pins, with the use of each."""

    def __init__(self) -> None:
        self.held = SharedPrefixes()
        self._groups: dict[str, _Group] = {}
        self._uses: dict[str, tuple[SharedPrefix, MemberUse]] = {}
        self.resize(1, 0)

    def __bool__(self) -> bool:
        return bool(self.held)

    def resize(self, page_tokens: int, count: int) -> None:
        """Forget all members: pages have a new size, and there are `count` intervals."""
        self._page_tokens = page_tokens
        self._zeros = np.zeros(count)
        self.clear()

    def clear(self) -> None:
        """Forget all members; pins stay."""
        self.held.reset(())
        self._uses.clear()
        self._groups = {key: self._empty(prefix) for key, prefix in self.held.pinned.items()}

    def total(self) -> PrefixUse:
        """What all prefixes add."""
        mean, variance = self._zeros, self._zeros
        for group in self._groups.values():
            mean, variance = mean + group.use.mean, variance + group.use.variance
        return PrefixUse(mean, variance)

    def pin(self, prefix: SharedPrefix) -> PrefixUse:
        """Hold a prefix whole at every step; returns the change of its use."""
        self.held.pin(prefix)
        return self._update(prefix)

    def unpin(self, prefix_id: str) -> PrefixUse | None:
        """End a pin; returns the change of its use, None if it was not pinned."""
        prefix = self.held.pinned.get(prefix_id)
        if prefix is None:
            return None
        self.held.unpin(prefix_id)
        return self._update(prefix)

    def change(self, prefix: SharedPrefix, member: MemberUse) -> PrefixUse:
        """How the use of a prefix would change if this member joined."""
        group = self._groups.get(prefix.id)
        if group is None:
            return self._use(prefix, member.absence, member.own)
        use = self._use(prefix, group.absence + member.absence, group.own + member.own)
        return _difference(use, group.use)

    def join(self, member_id: str, prefix: SharedPrefix, member: MemberUse) -> PrefixUse:
        """A member started; returns the change of its prefix's use."""
        self.held.join(member_id, prefix)
        self._uses[member_id] = prefix, member
        group = self._groups.setdefault(prefix.id, self._empty(prefix, held=False))
        group.absence = group.absence + member.absence
        group.own = group.own + member.own
        return self._update(prefix)

    def leave(self, member_id: str) -> PrefixUse | None:
        """A member ended; returns the change of its prefix's use, None if it had none."""
        known = self._uses.pop(member_id, None)
        if known is None:
            return None
        prefix, member = known
        self.held.leave(member_id)
        group = self._groups[prefix.id]
        group.absence = np.minimum(group.absence - member.absence, 0.0)
        group.own = np.maximum(group.own - member.own, 0.0)
        return self._update(prefix)

    def _update(self, prefix: SharedPrefix) -> PrefixUse:
        group = self._groups.setdefault(prefix.id, self._empty(prefix, held=False))
        before = group.use
        if self.held.holds(prefix.id):
            group.use = self._use(prefix, group.absence, group.own)
            return _difference(group.use, before)
        del self._groups[prefix.id]
        return _difference(PrefixUse(self._zeros, self._zeros), before)

    def _empty(self, prefix: SharedPrefix, *, held: bool = True) -> _Group:
        nothing = PrefixUse(self._zeros, self._zeros)
        use = self._use(prefix, self._zeros, self._zeros) if held else nothing
        return _Group(self._zeros, self._zeros, use)

    def _use(self, prefix: SharedPrefix, absence: Floats, own: Floats) -> PrefixUse:
        pages = prefix_pages(prefix, self._page_tokens)
        if prefix.id in self.held.pinned:
            return PrefixUse(np.full(len(absence), float(pages)), self._zeros)
        gone = np.exp(absence)
        alive = 1.0 - gone
        return PrefixUse(pages * alive, pages * gone * (pages * alive + 2.0 * own))


def _difference(after: PrefixUse, before: PrefixUse) -> PrefixUse:
    return PrefixUse(after.mean - before.mean, after.variance - before.variance)
