"""How much of the engine each tenant uses, measured against its share.

Two measures: running sequences, each of which gets a token a step, and the KV tokens they hold. A
tenant's fair part of either is its share's part of the total, among the tenants with queued or
running requests.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.admission.ledger import prefix_pages
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.requests import RunningSequence


class Use(NamedTuple):
    """Sequences, and the KV tokens they hold."""

    sequences: float
    kv_tokens: float

    def without(self, kv_tokens: int) -> "Use":
        """The use without one sequence of this size."""
        return Use(self.sequences - 1, self.kv_tokens - kv_tokens)

    def reaches(self, fair: "Use") -> bool:
        """Whether it is at least the fair part in one of the measures."""
        return self.sequences >= fair.sequences or self.kv_tokens >= fair.kv_tokens


NOTHING = Use(0, 0)


class TenantUsage:
    """The use of each tenant's running sequences; suspended ones use nothing.

    `queued` maps the tenants with queued requests to their shares.
    """

    def __init__(self, running: Iterable[RunningSequence], queued: Mapping[str, float]) -> None:
        sizes: dict[str, list[int]] = defaultdict(list)
        self._shares = dict(queued)
        for sequence in running:
            self._shares[sequence.tenant] = sequence.share
            if not sequence.suspended:
                sizes[sequence.tenant].append(sequence.kv_tokens)
        self.used = {tenant: Use(len(each), sum(each)) for tenant, each in sizes.items()}
        self._largest = {tenant: max(each) for tenant, each in sizes.items()}
        self._total = Use(
            sum(used.sequences for used in self.used.values()),
            sum(used.kv_tokens for used in self.used.values()),
        )

    @property
    def over(self) -> frozenset[str]:
        """Tenants that reach their fair part even without their largest sequence.

        So a tenant with one sequence is never over its share.
        """
        return frozenset(
            tenant
            for tenant, used in self.used.items()
            if used.without(self._largest[tenant]).reaches(self.fair_part(tenant))
        )

    def fair_part(self, tenant: str) -> Use:
        """The tenant's use if the total were divided by shares."""
        part = self._shares[tenant] / sum(self._shares.values())
        return Use(self._total.sequences * part, self._total.kv_tokens * part)

    def is_under(self, tenant: str) -> bool:
        """Whether the tenant uses less than its fair part in both measures."""
        return not self.used.get(tenant, NOTHING).reaches(self.fair_part(tenant))

    def victims(
        self, running: Sequence[RunningSequence], pages: int, capacity: Capacity
    ) -> list[RunningSequence]:
        """Sequences to preempt to free this number of pages, at least one; none if impossible.

        They belong to tenants over their share, which keep their fair parts; the longest expected
        remainder goes first.
        """
        over = self.over
        candidates = [s for s in running if s.tenant in over and not s.suspended]
        if not candidates:
            return []
        remaining = LengthDistributions.of(candidates).remaining_quantile(0.5).tolist()
        order = sorted(range(len(candidates)), key=remaining.__getitem__, reverse=True)
        used = dict(self.used)
        victims: list[RunningSequence] = []
        for victim in map(candidates.__getitem__, order):
            left = used[victim.tenant].without(victim.kv_tokens)
            if not left.reaches(self.fair_part(victim.tenant)):
                continue
            used[victim.tenant] = left
            pages -= capacity.pages_for(victim.kv_tokens)
            pages += prefix_pages(victim.prefix, capacity.page_tokens)  # others may hold it
            victims.append(victim)
            if pages <= 0:
                return victims
        return []
