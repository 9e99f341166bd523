"""The live view of a long queue: a bounded number of rows, in the order of the starts."""

import re
from uuid import UUID

from gateway.dashboard.live.gateway import LiveGateway
from gateway.dashboard.live.samples import Samples
from gateway.dashboard.pages.queue import ROWS, QueueView
from gateway.generation.service import GenerationService
from gateway.parts import Parts
from tests.integration.api_admin.conftest import Enqueue

WAITING = 3 * ROWS


async def test_a_page_of_a_long_queue_has_few_rows_and_leads_on(
    service: GenerationService, parts: Parts, enqueue: Enqueue
) -> None:
    states = [enqueue(float(number % 40 + 1)) for number in range(WAITING)]
    live = LiveGateway(service, parts, Samples(service))
    seen: set[str] = set()
    for offset in range(0, WAITING, ROWS):
        html = QueueView(live, offset, None, cancels=True, named=True).render()
        rows = re.findall(r'<tr id="r([0-9a-f]{32})"', html)
        assert len(rows) == ROWS
        assert ("Later places" in html) == (offset + ROWS < WAITING)
        seen |= set(rows)
    assert seen == {state.id.hex for state in states}


async def test_a_tenants_view_has_its_own_requests_alone(
    service: GenerationService, parts: Parts, enqueue: Enqueue
) -> None:
    ours, theirs = enqueue(tenant=1), enqueue(tenant=2)
    live = LiveGateway(service, parts, Samples(service))
    html = QueueView(live, 0, UUID(int=1), cancels=False, named=False).render()
    assert ours.id.hex in html
    assert theirs.id.hex not in html
    assert "tenant 2" not in html
    assert "Cancel" not in html


async def test_samples_are_taken_without_an_engine(service: GenerationService) -> None:
    samples = Samples(service)
    for _ in range(3):
        samples.take()
    newest = samples.newest
    assert newest is not None
    assert (newest.used, newest.peak, newest.running) == (None, None, 0)
