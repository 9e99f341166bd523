"""History as a workload, from a real PostgreSQL."""

import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import main
from gateway.database.errors import Sessions
from gateway.errors import InvalidRequest, NotFound
from gateway.history.engine_costs import EngineCostWriter, MeasuredEngine
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.replay.cost.measured import served_engine
from gateway.replay.cost.model import EngineShape
from gateway.replay.workload.history import HistoryWindow, read_history

TUESDAY = datetime(2026, 3, 31, tzinfo=UTC)


@pytest.fixture
def keep(sessions: Sessions, tmp_path: Path) -> Callable[[Iterable[Record]], Any]:
    """A function that writes records to history."""

    async def write(records: Iterable[Record]) -> None:
        writer = HistoryWriter(sessions, tmp_path)
        for record in records:
            writer.record(record)
        await writer.flush()

    return write


async def test_requests_are_read_as_served(
    sessions: Sessions, keep: Any, a_record: Callable[..., Record]
) -> None:
    quantiles = [1.0, 2.5, 3.0, 4.0, 5.0, 6.0]
    second = a_record(arrived_at=TUESDAY + timedelta(seconds=2.5), prompt_tokens=30)
    first = a_record(arrived_at=TUESDAY, generation_tokens=12, max_tokens=80, quantiles=quantiles)
    await keep([second, first])
    found = await read_history(sessions, HistoryWindow())
    found.check()
    assert found.arrived_s.tolist() == [0, 2.5]
    assert found.prompt_tokens.tolist() == [20, 30]
    assert found.generation_tokens.tolist() == [12, 12]
    assert found.max_tokens.tolist() == [80, 100]
    assert found.quantiles[0].tolist() == quantiles
    assert found.has_predictions


async def test_window_includes_its_start_and_excludes_its_end(
    sessions: Sessions, keep: Any, a_record: Callable[..., Record]
) -> None:
    days = [TUESDAY + timedelta(days=day) for day in (-1, 0, 0.5, 1)]
    await keep(a_record(arrived_at=at, prompt_tokens=n) for n, at in enumerate(days, 1))
    window = HistoryWindow(since=TUESDAY, until=TUESDAY + timedelta(days=1))
    found = await read_history(sessions, window)
    assert found.prompt_tokens.tolist() == [2, 3]


async def test_one_tenant_by_name_or_id(
    sessions: Sessions, keep: Any, build: Any, a_record: Callable[..., Record]
) -> None:
    tenant = await build.tenant("acme")
    app = await build.app(tenant, name="chat")
    await keep([a_record(tenant_id=tenant.id, app_id=app.id), a_record()])
    for name in ("acme", str(tenant.id)):
        found = await read_history(sessions, HistoryWindow(tenant=name))
        assert (found.tenants, found.apps) == (["acme"], ["chat"])
        assert len(found) == 1


async def test_deleted_tenant_is_named_by_its_id(
    sessions: Sessions, keep: Any, a_record: Callable[..., Record]
) -> None:
    await keep([a_record(tenant_id=UUID(int=7))])
    assert (await read_history(sessions, HistoryWindow())).tenants == [str(UUID(int=7))]


async def test_unknown_tenant_is_named(sessions: Sessions) -> None:
    with pytest.raises(NotFound, match="there is no tenant unknown"):
        await read_history(sessions, HistoryWindow(tenant="unknown"))


async def test_requests_that_never_ran_or_were_imported_are_left_out(
    sessions: Sessions, keep: Any, a_record: Callable[..., Record]
) -> None:
    await keep(
        [
            a_record(generation_tokens=0, finish_reason="cancelled", censored=True),
            a_record(queued_s=None, policy="imported"),
            a_record(prompt_tokens=5),
        ]
    )
    assert (await read_history(sessions, HistoryWindow())).prompt_tokens.tolist() == [5]


async def test_empty_window_is_an_error(sessions: Sessions) -> None:
    with pytest.raises(InvalidRequest, match="no request in that window"):
        await read_history(sessions, HistoryWindow())


async def test_window_of_several_models_is_an_error(
    sessions: Sessions, keep: Any, a_record: Callable[..., Record]
) -> None:
    await keep([a_record(model="a"), a_record(model="b", prompt_tokens=5)])
    with pytest.raises(InvalidRequest, match="requests of a, b; name one model"):
        await read_history(sessions, HistoryWindow())
    assert (await read_history(sessions, HistoryWindow(model="b"))).prompt_tokens.tolist() == [5]


async def test_more_than_one_chunk_is_read_in_order(
    sessions: Sessions,
    keep: Any,
    a_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.replay.workload.history.CHUNK_ROWS", 100)
    count = 250
    await keep(
        a_record(arrived_at=TUESDAY + timedelta(seconds=n), prompt_tokens=n + 1)
        for n in reversed(range(count))
    )
    found = await read_history(sessions, HistoryWindow())
    assert found.prompt_tokens.tolist() == list(range(1, count + 1))


async def replay(*arguments: str, **environment: str | None) -> Result:
    """Run `lmaas replay --history` in a thread, as it has its own event loop."""
    runner = CliRunner(env=environment)
    return await asyncio.to_thread(runner.invoke, main, ["replay", "--history", *arguments])


async def test_window_of_history_is_replayed_from_the_command_line(
    keep: Any, postgres_url: str, a_record: Callable[..., Record]
) -> None:
    hours = [TUESDAY + timedelta(hours=hour) for hour in range(0, 48, 2)]
    await keep(a_record(arrived_at=at) for at in hours)
    found = await replay(
        *("--from", "2026-03-31", "--to", "2026-04-01", "--policy", "lmaas", "--json", "-"),
        *("--profile", "a100-80gb/gpt-j-6b"),
        DATABASE_URL=postgres_url,
    )
    assert found.exit_code == 0, found.output
    summary = json.loads(found.stdout)
    assert summary["requests"] == 12
    assert summary["engine"] == "a100-80gb/gpt-j-6b"
    assert summary["predictions"] == "as recorded"
    assert summary["source"] == "of history from 2026-03-31 00:00 to 2026-04-01 00:00"


def a_measured_engine(gateway: UUID, **given: object) -> MeasuredEngine:
    fields: dict[str, Any] = {
        "gateway_id": gateway,
        "model": "model",
        "device": "cpu",
        "dtype": "float32",
        "measured_at": TUESDAY,
        "steps": 1000,
        "error": 0.05,
        "step_s": 0.5,
        "prompt_token_s": 0.0,
        "prompt_read_s": 0.0,
        "sequence_s": 0.0,
        "kv_token_s": 0.0,
        "pages": 64,
        "page_tokens": 16,
        "context_tokens": 512,
        "step_tokens": 128,
        "max_sequences": 8,
    }
    return MeasuredEngine(**{**fields, **given})


async def test_history_is_replayed_on_the_engine_that_served_most_of_it(
    sessions: Sessions, keep: Any, postgres_url: str, a_record: Callable[..., Record]
) -> None:
    gateways = [UUID(int=1)] * 3 + [UUID(int=2), None]
    await keep(
        a_record(arrived_at=TUESDAY + timedelta(hours=n), gateway_id=gateway)
        for n, gateway in enumerate(gateways)
    )
    for engine in (
        a_measured_engine(UUID(int=1)),
        a_measured_engine(UUID(int=2), step_s=9.0),
        a_measured_engine(UUID(int=3), step_s=99.0),
    ):
        await EngineCostWriter(sessions, lambda engine=engine: engine).write()
    found = await replay("--policy", "fcfs", "--json", "-", DATABASE_URL=postgres_url)
    assert found.exit_code == 0, found.output
    summary = json.loads(found.stdout)
    assert summary["engine"] == (
        "model on cpu (float32), as measured over 1,000 steps (error 5%), "
        "where 75% of the requests were served"
    )
    # 12 tokens: the prompt's step and 11 more, half a second each
    assert summary["rows"][0]["measures"]["mean_s"]["mean"] == pytest.approx(6, abs=0.1)


async def test_newer_cost_of_a_gateway_replaces_the_older(sessions: Sessions) -> None:
    measured = [a_measured_engine(UUID(int=1)), a_measured_engine(UUID(int=1), steps=2000)]
    writer = EngineCostWriter(sessions, lambda: measured[0])
    await writer.write()
    measured.pop(0)
    await writer.close()
    engine = await served_engine(sessions, {UUID(int=1): 5})
    assert "over 2,000 steps" in engine.name
    assert engine.model.shape == EngineShape(
        pages=64, page_tokens=16, context_tokens=512, step_tokens=128, max_sequences=8
    )


async def test_history_without_a_measured_engine_needs_one_to_be_named(
    keep: Any, postgres_url: str, a_record: Callable[..., Record]
) -> None:
    await keep([a_record(gateway_id=UUID(int=1)), a_record()])
    found = await replay(DATABASE_URL=postgres_url)
    assert found.exit_code == 1
    assert "lmaas calibrate" in found.stderr
    assert "--profile" in found.stderr


async def test_database_without_tables_is_named(postgres: Any) -> None:
    empty = postgres.url.replace("/postgres?", "/template1?")
    found = await replay(DATABASE_URL=empty)
    assert found.exit_code == 1
    assert "lmaas migrate" in found.stderr


async def test_folder_without_history_is_named(tmp_path: Path) -> None:
    found = await replay(DATABASE_URL=None, LMAAS_DATA_DIR=str(tmp_path))
    assert found.exit_code == 1
    assert f"there is no history in {tmp_path}" in found.stderr
