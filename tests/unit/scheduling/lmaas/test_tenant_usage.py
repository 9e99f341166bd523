"""Who holds more than its share, and what is preempted for whom."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.lmaas.tenant_usage import TenantUsage, Use
from gateway.scheduling.requests import RunningSequence, SharedPrefix

CAPACITY = Capacity(pages=1_000, page_tokens=8)
SHARES = {"a": 1.0, "a2": 1.0, "b": 0.5, "c": 3.0}


def a_sequence(
    name: str, tenant: str, tokens: int, *, median: float = 500.0, suspended: bool = False
) -> RunningSequence:
    return RunningSequence(
        name, tokens, 0, (median,) * 6, 1_000, tenant, SHARES[tenant], suspended=suspended
    )


@st.composite
def sequences(draw: st.DrawFn) -> list[RunningSequence]:
    each = st.tuples(
        st.sampled_from(list(SHARES)), st.integers(1, 400), st.floats(1, 900), st.booleans()
    )
    return [
        a_sequence(str(number), tenant, tokens, median=median, suspended=suspended)
        for number, (tenant, tokens, median, suspended) in enumerate(draw(st.lists(each)))
    ]


queues = st.dictionaries(st.sampled_from(list(SHARES)), st.just(1.0)).map(
    lambda found: {tenant: SHARES[tenant] for tenant in found}
)


@given(sequences(), queues)
def test_no_tenant_is_both_over_and_under_its_share(
    running: list[RunningSequence], queued: dict[str, float]
) -> None:
    usage = TenantUsage(running, queued)
    assert not any(usage.is_under(tenant) for tenant in usage.over)
    for tenant in usage.over:
        assert sum(s.tenant == tenant and not s.suspended for s in running) > 1


@given(sequences(), queues, st.integers(-20, 200))
def test_victims_free_the_pages_and_leave_their_tenants_their_fair_parts(
    running: list[RunningSequence], queued: dict[str, float], pages: int
) -> None:
    usage = TenantUsage(running, queued)
    victims = usage.victims(running, pages, CAPACITY)
    assert len({victim.id for victim in victims}) == len(victims)
    assert all(victim.tenant in usage.over and not victim.suspended for victim in victims)
    if victims:
        assert sum(CAPACITY.pages_for(victim.kv_tokens) for victim in victims) >= pages
    for tenant in usage.over:
        left = usage.used[tenant]
        for victim in victims:
            if victim.tenant == tenant:
                left = left.without(victim.kv_tokens)
        assert left.reaches(usage.fair_part(tenant))


def test_long_sequences_of_as_many_as_short_ones_are_within_the_share() -> None:
    long = [a_sequence(f"long{n}", "a", 400) for n in range(4)]
    short = [a_sequence(f"short{n}", "a2", 40) for n in range(4)]
    usage = TenantUsage([*long, *short], {})
    assert not usage.is_under("a2")


def test_a_tenant_alone_is_never_over_its_share() -> None:
    running = [a_sequence(str(number), "a", 50) for number in range(9)]
    assert not TenantUsage(running, {"a": 1.0}).over
    assert TenantUsage(running, {"b": 0.5}).over == {"a"}


def test_the_longest_expected_remainder_is_preempted_first() -> None:
    running = [a_sequence(str(n), "a", 50, median=median) for n, median in enumerate((9, 700, 90))]
    usage = TenantUsage(running, {"b": 0.5, "c": 3.0})
    assert [victim.id for victim in usage.victims(running, 0, CAPACITY)] == ["1"]
    assert [victim.id for victim in usage.victims(running, 8, CAPACITY)] == ["1", "2"]


def test_a_suspended_sequence_holds_nothing() -> None:
    running = [a_sequence("held", "a", 50), a_sequence("gone", "a", 50, suspended=True)]
    usage = TenantUsage(running, {"b": 0.5})
    assert usage.used == {"a": Use(1, 50)}
    assert not usage.over


def test_victim_does_not_free_its_shared_prefix() -> None:
    prefix = SharedPrefix("p", 64)
    plain = [a_sequence(str(place), "a", 80, median=900.0 - place) for place in range(5)]
    grouped = [replace(sequence, prefix=prefix) for sequence in plain]
    freed = {}
    for name, running in (("plain", plain), ("grouped", grouped)):
        usage = TenantUsage(running, {"c": SHARES["c"]})
        freed[name] = [victim.id for victim in usage.victims(running, 4, CAPACITY)]
    assert freed == {"plain": ["0"], "grouped": ["0", "1"]}
