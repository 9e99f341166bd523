"""Room for a tenant under its share, in an engine that another one fills."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
from msgspec import structs

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.lmaas.policy import LmaasPolicy
from gateway.scheduling.lmaas.tenant_queue import OrderBounds
from gateway.scheduling.requests import QueuedRequest, RunningSequence

MakeRequest: TypeAlias = Callable[..., QueuedRequest]


class Flooded:
    """A policy whose engine runs four sequences at most, all of tenant `flood`, which has more."""

    def __init__(self, a_request: MakeRequest, *, makes_room: bool = True) -> None:
        self.policy = LmaasPolicy(
            "lmaas", admission=FuturePeak(0.0), bounds=OrderBounds(), makes_room=makes_room
        )
        self.policy.resize(1_000, 8, 4)
        self.generated: dict[str, int] = {}
        self.requests: dict[str, QueuedRequest] = {}
        for _ in range(8):
            self.policy.arrive(a_request(tenant="flood"))
        while found := self.policy.dispatch(1.0):
            self.start(found, generated=5)

    def start(self, found: Dispatch, generated: int = 0) -> None:
        for request in found.requests:
            self.requests[request.id], self.generated[request.id] = request, generated

    def running(self) -> list[RunningSequence]:
        return [
            structs.replace(request.started(), generated=self.generated[request.id])
            for request in self.requests.values()
        ]

    def make_room(self) -> Dispatch | None:
        found = self.policy.make_room(2.0, self.running, 900)
        if found is not None:
            self.start(found)
        return found


@pytest.fixture
def flooded(a_request: MakeRequest) -> Flooded:
    return Flooded(a_request)


def test_a_running_limit_holds(flooded: Flooded) -> None:
    assert len(flooded.requests) == 4
    assert len(flooded.policy) == 4


def test_a_tenant_alone_makes_no_room_for_itself(flooded: Flooded) -> None:
    assert flooded.make_room() is None


def test_a_newcomer_takes_the_place_of_one_sequence(
    flooded: Flooded, a_request: MakeRequest
) -> None:
    newcomer = a_request(tenant="newcomer")
    flooded.policy.arrive(newcomer)
    assert flooded.policy.dispatch(2.0) is None
    found = flooded.make_room()
    assert found is not None
    assert found.requests == (newcomer,)
    assert [flooded.requests[each].tenant for each in found.preempt] == ["flood"]
    assert flooded.policy.over_share(flooded.running()) == {"flood"}
    flooded.policy.check()


def test_room_is_made_for_one_request_of_a_tenant_at_a_time(
    flooded: Flooded, a_request: MakeRequest
) -> None:
    for _ in range(3):
        flooded.policy.arrive(a_request(tenant="newcomer"))
    first = flooded.make_room()
    assert first is not None
    assert flooded.make_room() is None
    flooded.generated[first.requests[0].id] = 1
    second = flooded.make_room()
    assert second is not None
    assert second.requests[0].tenant == "newcomer"


def test_room_is_made_up_to_the_share_and_no_further(
    flooded: Flooded, a_request: MakeRequest
) -> None:
    for _ in range(20):
        flooded.policy.arrive(a_request(tenant="newcomer"))
    made = 0
    while found := flooded.make_room():
        made += 1
        flooded.generated[found.requests[0].id] = 5
        for victim in found.preempt:
            del flooded.requests[victim]  # suspended: it holds nothing
    assert made == 2


def test_an_option_turns_it_off(a_request: MakeRequest) -> None:
    flooded = Flooded(a_request, makes_room=False)
    flooded.policy.arrive(a_request(tenant="newcomer"))
    assert flooded.make_room() is None
