"""Two engines over HTTP, on the command line, in metrics and on the page."""

import httpx
import pytest
from msgspec import structs
from prometheus_client import generate_latest
from sqlalchemy import select

from engine.protocol import EngineInfo, KvState, Step
from gateway.api.metrics import read_gauges
from gateway.dashboard.live.gateway import LiveGateway
from gateway.dashboard.live.samples import Samples
from gateway.dashboard.pages.now import parts_of
from gateway.database.errors import Sessions
from gateway.engines.colocated import ColocatedEngine
from gateway.generation.service import GenerationService
from gateway.history.writer import HistoryWriter
from gateway.parts import Parts
from models import AuditEntry
from tests.integration.api_admin.conftest import ADMIN_KEY, Run

KV = KvState(pages=64, free=64, page_tokens=16)
FIRST = EngineInfo("epoch", "m", 512, 100, [4], KV, "http://one", "vllm 1")
SECOND = structs.replace(FIRST, device="http://two", context_tokens=256)


@pytest.fixture
def engines() -> list[ColocatedEngine]:
    return [ColocatedEngine("nothing listens here"), ColocatedEngine("nor here")]


@pytest.fixture
async def service(service: GenerationService) -> GenerationService:
    """The service with two engines, of which both have connected."""
    for events, info in zip(service.scheduler.events, (FIRST, SECOND), strict=True):
        events.engine_ready(info)
    return service


async def test_engines_are_shown_as_one_and_each(
    client: httpx.AsyncClient, service: GenerationService
) -> None:
    half = structs.replace(KV, free=32)
    service.scheduler.events[1].engine_stepped(Step(1, half, {}, running=3))
    shown = (await client.get("/admin/engine")).json()
    assert (shown["info"]["context_tokens"], shown["kv"]["pages"]) == (256, 128)
    assert (shown["kv"]["free"], shown["step"]["running"]) == (96, 3)
    one, other = shown["engines"]
    assert (one["number"], one["info"]["device"], one["step"]) == (0, "http://one", None)
    assert (other["number"], other["info"]["device"], other["kv"]["free"]) == (1, "http://two", 32)


async def test_one_engine_is_drained_by_its_number(
    client: httpx.AsyncClient,
    service: GenerationService,
    history_writer: HistoryWriter,
    sessions: Sessions,
) -> None:
    shown = (await client.post("/admin/engine/drain?engine=1")).json()
    assert [each["draining"] for each in shown["engines"]] == [False, True]
    assert (shown["draining"], service.ready) == (False, True)
    await client.post("/admin/engine/drain")
    assert not service.ready
    resumed = (await client.post("/admin/engine/resume", params={"engine": 0})).json()
    assert [each["draining"] for each in resumed["engines"]] == [False, True]
    assert service.ready
    unknown = await client.post("/admin/engine/pause?engine=2")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    assert (await client.post("/admin/engine/pause?engine=-1")).status_code == 400
    await history_writer.flush()
    async with sessions() as session:
        entries = (await session.scalars(select(AuditEntry).order_by(AuditEntry.id))).all()
    assert [entry.after for entry in entries] == [
        {"paused": [], "draining": [1]},
        {"paused": [], "draining": [0, 1]},
        {"paused": [], "draining": [1]},
    ]


async def test_metrics_and_the_page_have_each_engine(
    service: GenerationService, parts: Parts
) -> None:
    service.scheduler.drain_engine(0)
    service.scheduler.events[1].engine_lost()
    metrics = service.scheduler.metrics
    read_gauges(metrics, service)
    metrics.parts(parts.states, parts.restarts)
    text = generate_latest(metrics.registry).decode()
    for line in (
        'lmaas_engine_up{engine="0"} 1.0',
        'lmaas_engine_up{engine="1"} 0.0',
        'lmaas_engine_accepting{engine="0"} 0.0',
        'lmaas_engine_running_requests{engine="1"} 0.0',
        'lmaas_engine_kv_used_share{engine="0"} 0.0',
        'lmaas_engine_kv_used_share{engine="1"} NaN',
        'lmaas_part_up{part="engine"} 1.0',
        'lmaas_part_up{part="engine 1"} 0.0',
    ):
        assert line in text
    shown = parts_of(LiveGateway(service, parts, Samples(service)))
    assert [(part.name, part.state, part.mood, part.detail) for part in shown[:2]] == [
        ("Engine 0", "held", "busy", "http://one"),
        ("Engine 1", "away", "bad", "http://two"),
    ]


async def test_command_line_lists_and_drains_engines(
    service: GenerationService, url: str, lmaas: Run
) -> None:
    environment = {"LMAAS_URL": url, "LMAAS_ADMIN_KEY": ADMIN_KEY}
    code, output, errors = await lmaas("admin", "engine", "drain", 1, **environment)
    assert (code, errors) == (0, "next: lmaas admin engine resume 1\n")
    assert service.scheduler.engine[1].draining
    rows = [line.split() for line in output.splitlines()]
    assert ["0", "http://one", "yes", "-", "no", "no", "0", "64", "64"] in rows
    assert ["1", "http://two", "yes", "-", "no", "yes", "0", "64", "64"] in rows
    code, _, errors = await lmaas("admin", "engine", "pause", 7, **environment)
    assert code != 0
    assert "engines are 0 to 1" in errors
