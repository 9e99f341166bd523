"""How much KV memory each tenant holds, measured against its share.

A tenant's fair part is its share's part of all KV tokens held, among the tenants with queued or
running requests. All figures are in KV tokens.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.requests import RunningSequence


class TenantUsage:
    """The KV tokens held by each tenant's running sequences; suspended ones hold none.

    `queued` maps the tenants with queued requests to their shares.
    """

    def __init__(self, running: Iterable[RunningSequence], queued: Mapping[str, float]) -> None:
        self.held: dict[str, int] = defaultdict(int)
        self._largest: dict[str, int] = defaultdict(int)
        self._shares = dict(queued)
        for sequence in running:
            tenant = sequence.tenant
            self._shares[tenant] = sequence.share
            if not sequence.suspended:
                self.held[tenant] += sequence.kv_tokens
                self._largest[tenant] = max(self._largest[tenant], sequence.kv_tokens)
        self._part = sum(self.held.values()) / max(sum(self._shares.values()), 1e-9)

    @property
    def over(self) -> frozenset[str]:
        """Tenants that would still hold their fair part without their largest sequence.

        So a tenant with one sequence is never over its share, and preempting a sequence never
        leaves a tenant below its fair part.
        """
        return frozenset(
            tenant
            for tenant, held in self.held.items()
            if held and held - self._largest[tenant] >= self.fair_part(tenant)
        )

    def fair_part(self, tenant: str) -> float:
        """The tokens that the tenant would hold if memory were divided by shares."""
        return self._part * self._shares.get(tenant, 0.0)

    def is_under(self, tenant: str) -> bool:
        """Whether the tenant holds less than its fair part."""
        return self.held.get(tenant, 0) < self.fair_part(tenant)

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
        held = dict(self.held)
        victims: list[RunningSequence] = []
        for victim in map(candidates.__getitem__, order):
            if held[victim.tenant] - victim.kv_tokens < self.fair_part(victim.tenant):
                continue
            held[victim.tenant] -= victim.kv_tokens
            pages -= capacity.pages_for(victim.kv_tokens)
            victims.append(victim)
            if pages <= 0:
                return victims
        return []
