"""Start, stop, failed starts, and recovery from killed processes."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import psutil
import psycopg
import pytest

from engine.demo.lexicon import VELAN
from gateway.database.embedded import EmbeddedPostgres
from gateway.history.disk.journal_file import journals
from gateway.history.disk.lost import read_lost
from tests.conftest import PATIENCE_S
from tests.e2e.conftest import streamed_across

Asked = Callable[..., dict[str, Any]]
LIMIT = 100_000  # tokens
CONTEXT = 512  # tokens of the demo model's context, and so of any hold
TWENTY = " ".join(list(VELAN)[:20])


async def test_output_has_no_given_key_and_no_call_of_the_engine(own: Any, asked: Asked) -> None:
    gateway = await own.running()  # its first start, which names the key
    async with gateway.client() as client:
        await client.chat.completions.create(**asked("spell", "brave"))
        printed = gateway.output.read_text() + gateway.errors.read_text()
        assert "$LMAAS_API_KEY" in printed
        assert client.api_key not in printed
        assert "http://engine" not in printed


async def test_second_start_finds_all_data_and_a_stop_leaves_no_process(
    own: Any, asked: Asked
) -> None:
    first = await own.running()
    async with first.client() as client:
        answer = await client.chat.completions.create(**asked("translate", "brave king"))
    async with first.admin() as admin:
        before = [item["name"] for item in (await admin.get("/admin/tenants")).json()["data"]]
        made = (await admin.post("/admin/tenants", json={"name": "a tenant"})).raise_for_status()
    family = first.family()
    assert len(family) >= 3  # engine, predictor, Postgres
    assert (first.data_dir / "server.json").exists()
    assert await first.stop(signal.SIGINT) == 0
    assert not [process for process in family if _lives(process)]
    assert not (first.data_dir / "server.json").exists()
    first.data_dir.chmod(0o755)

    second = await own.running()
    async with second.client() as client:  # the key of the first start
        again = await client.chat.completions.create(**asked("translate", "brave king"))
    async with second.admin() as admin:
        names = [item["name"] for item in (await admin.get("/admin/tenants")).json()["data"]]
    assert again.choices == answer.choices
    assert before[0] == "demo"
    assert names == [*before, "a tenant"]
    assert made.json()["name"] == "a tenant"
    assert open_to_others(second.data_dir) == []


def open_to_others(data_dir: Path) -> list[Path]:
    """What other users may read or write of a data folder; they may traverse that itself."""
    inside = [path for path in data_dir.rglob("*") if path.owner() == data_dir.owner()]
    found = [path for path in inside if path.lstat().st_mode & 0o077 and not path.is_symlink()]
    return found + [data_dir] * bool(data_dir.stat().st_mode & 0o066)


async def test_killed_engine_delays_a_stream_without_error(own: Any, asked: Asked) -> None:
    gateway = await own.running()
    async with gateway.client() as client:
        request = asked("spell", TWENTY)
        whole = (await client.chat.completions.create(**request)).choices[0].message.content
        pieces = await streamed_across(client, request, gateway.engine().kill)
        assert "".join(pieces) == whole
        assert len(pieces) > 2


async def test_killed_predictor_fails_no_request(own: Any, asked: Asked) -> None:
    gateway = await own.running()
    async with gateway.client() as client:
        before = gateway.predictor()
        before.kill()
        answer = await client.chat.completions.create(**asked("translate", "brave king"))
        assert answer.choices[0].finish_reason == "stop"


async def test_running_request_may_finish_at_a_stop(own: Any, asked: Asked) -> None:
    gateway = await own.running()
    async with gateway.client() as client:
        stream = await client.chat.completions.create(**asked("spell", TWENTY, stream=True))
        first = await anext(aiter(stream))
        gateway.process.send_signal(signal.SIGTERM)
        reasons = [chunk.choices[0].finish_reason async for chunk in stream]
    assert first.choices[0].finish_reason is None
    assert reasons[-1] == "stop"
    assert await gateway.stop() == 0


async def test_killed_gateway_leaves_no_process_and_a_record_of_each_request(
    own: Any, asked: Asked
) -> None:
    gateway = await own.running()
    tenant, key = await gateway.tenant("killed")
    await limit_tokens(gateway, tenant)
    children = psutil.Process(gateway.process.pid).children(recursive=True)
    children = [child for child in children if "-m" in child.cmdline()]
    async with gateway.client(key) as client:
        for _ in range(3):
            await client.chat.completions.create(**asked("translate", "brave king"))
        stream = await client.chat.completions.create(**asked("spell", TWENTY, stream=True))
        pieces = aiter(stream)
        await anext(pieces)
        engine = gateway.engine()
        engine.suspend()  # the answer does not end by itself
        while not noted_tokens(gateway):
            await asyncio.sleep(0.01)
        gateway.process.kill()
        gateway.process.wait()
        engine.resume()
        with pytest.raises(openai.APIConnectionError):
            [piece async for piece in pieces]
    await asyncio.to_thread(psutil.wait_procs, children, PATIENCE_S)
    assert not [child for child in children if _lives(child)]
    sent = noted_tokens(gateway)
    again = await own.running()
    assert await again.history(tenant) == 4
    async with again.admin() as admin:
        listed = await admin.get("/admin/requests", params={"tenant": tenant, "outcome": "lost"})
    (lost,) = listed.json()["data"]
    assert (lost["generation_tokens"], lost["streamed"]) == (sent, True)
    await check_free(again, key, asked("translate", "brave king"))


def noted_tokens(gateway: Any) -> int:
    """What the journal has of the one stream; 0 once it has ended."""
    found = read_lost(journals(gateway.data_dir / "spool"))
    return sum(record.generation_tokens for record in found)


async def limit_tokens(gateway: Any, tenant: str) -> None:
    new = {"level": "tenant", "owner": tenant, "kind": "tokens_per_month", "value": str(LIMIT)}
    async with gateway.admin() as admin:
        (await admin.put("/admin/limits", json=new)).raise_for_status()


async def check_free(gateway: Any, key: str, request: dict[str, Any]) -> None:
    """Once its lease has expired, what a killed gateway did not use of a limit is free."""
    url = EmbeddedPostgres(gateway.data_dir).url
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        expired = "UPDATE limit_leases SET expires_at = now() - interval '1 s'"
        await connection.execute(expired)
    async with gateway.client(key) as client:
        answer = await client.chat.completions.with_raw_response.create(**request)
    left = int(answer.headers["x-ratelimit-remaining-tokens"])
    assert LIMIT - 4 * CONTEXT < left < LIMIT


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"LMAAS_MODEL": "/nowhere/at/all"}, "LMAAS_MODEL"),
        ({"LMAAS_PORT": "many"}, "LMAAS_PORT"),
        ({"LMAAS_PROT": "8000"}, "LMAAS_PROT"),
        ({"LMAAS_POLICY": "best"}, "LMAAS_POLICY"),
        ({"DATABASE_URL": "postgresql://someone:secret@127.0.0.1:9/none"}, "DATABASE_URL"),
        ({"DATABASE_URL": "mysql://root@localhost/x"}, "DATABASE_URL"),
        ({"LMAAS_DATA_DIR": "/proc/none"}, "LMAAS_DATA_DIR"),
        ({"LMAAS_HOST": "203.0.113.1"}, "203.0.113.1"),
    ],
)
async def test_start_that_cannot_succeed_says_why_in_one_line(
    data_root: Path, environment: Callable[..., dict[str, str]], settings: dict[str, str], says: str
) -> None:
    code, last = await _run(environment(data_root / "never", **settings))
    assert code == 1
    assert last.startswith("lmaas: ")
    assert says in last
    assert "secret" not in last


async def test_port_in_use_is_named(
    data_root: Path, environment: Callable[..., dict[str, str]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, last = await _run(environment(data_root / "never", LMAAS_PORT=port))
    assert code == 1
    assert port in last
    assert "LMAAS_PORT" in last


async def test_two_gateways_do_not_share_a_data_folder(
    own: Any, environment: Callable[..., dict[str, str]]
) -> None:
    gateway = await own.running()
    code, last = await _run(environment(gateway.data_dir))
    assert code == 1
    assert "another gateway" in last


async def test_readiness_reports_the_engine(own: Any) -> None:
    gateway = await own.running()
    async with gateway.stranger() as client:
        assert (await client.get("/health/live")).json() == {"status": "ok"}
        ready = await client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["engine"] == "connected"


def _lives(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _run(environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and last line of a start that fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=Path.cwd(),
    )
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return process.returncode, errors.decode().strip().splitlines()[-1]
