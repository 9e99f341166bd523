"""Fixtures that run the whole product: `lmaas serve` in a process of its own.

Most tests share the gateway `served`; files whose tests stop or kill a gateway share `own`.
pytest-xdist runs the tests of each gateway in one process, both at the same time
(`tests/distribution.py`).
"""

import asyncio
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from sqlalchemy import func, select

from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from models import RequestRecord
from tests.conftest import PATIENCE_S

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # clients of http://: no certificates are read
READY = re.compile(r"ready on (http://\S+)")
API_KEY = "sk-lmaas-tests-of-the-whole"
ADMIN_KEY = "sk-lmaas-tests-of-the-admin"
INSTRUCTIONS = {
    "translate": "Translate into Velan, word by word.",
    "spell": "Spell out every word.",
    "diary": "Invent what is asked for.",
}


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("LMAAS_")}
    ours.pop("DATABASE_URL", None)
    return {
        **ours,
        "LMAAS_DATA_DIR": str(data_dir),
        "LMAAS_PORT": "0",
        "LMAAS_API_KEY": API_KEY,
        "LMAAS_ADMIN_KEY": ADMIN_KEY,
        "LMAAS_ENGINE_THREADS": "1",
        "LMAAS_KV_TOKENS": "32768",  # the same on every machine
        "LMAAS_AUTOMATIC_TRAINING": "false",
        "LMAAS_EMBEDDER": "off",  # the packaged one takes seconds to load
        "LMAAS_PREDICTION_BUDGET_MS": "30000",  # a busy machine changes no prediction
        "LMAAS_KEY_LOOKUP_S": "30",
        "LMAAS_DRAIN_S": str(PATIENCE_S),
        "LMAAS_STOP_DELAY_S": "0",
        **settings,
    }


class Served:
    """A running gateway."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.errors = data_dir.parent / f"{data_dir.name}.stderr"
        self.output = data_dir.parent / f"{data_dir.name}.stdout"
        with self.errors.open("wb") as errors, self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve"],
                env=environment(data_dir, **settings),
                stdout=output,
                stderr=errors,
            )
        self.url = ""

    async def ready(self) -> "Served":
        async with asyncio.timeout(PATIENCE_S):
            while not (match := READY.search(self.errors.read_text())):
                assert self.process.poll() is None, self.errors.read_text()
                await asyncio.sleep(0.05)
        self.url = match[1]
        return self

    def family(self) -> list[psutil.Process]:
        """The gateway's child processes and its Postgres, which is no child of it."""
        ours = psutil.Process(self.process.pid).children(recursive=True)
        held = [p for p in psutil.process_iter(["cmdline"]) if self._is_postgres(p)]
        return [*ours, *held]

    def _is_postgres(self, process: psutil.Process) -> bool:
        return str(self.data_dir / "postgres") in " ".join(process.info["cmdline"] or [])

    def engine(self) -> psutil.Process:
        return self._child("engine")

    def predictor(self) -> psutil.Process:
        return self._child("gateway.prediction.serving.process")

    def _child(self, module: str) -> psutil.Process:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if child.cmdline()[1:3] == ["-m", module])

    async def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)

    def client(self, key: str = API_KEY) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=key,
            max_retries=0,
            timeout=PATIENCE_S,
            http_client=openai.DefaultAsyncHttpxClient(verify=NO_TLS, timeout=PATIENCE_S),
        )

    def admin(self) -> httpx.AsyncClient:
        return self._bearing(ADMIN_KEY)

    def caller(self, **options: Any) -> httpx.AsyncClient:
        return self._bearing(API_KEY, **options)

    def _bearing(self, key: str, **options: Any) -> httpx.AsyncClient:
        return self.stranger(headers={"Authorization": f"Bearer {key}"}, **options)

    def stranger(self, **options: Any) -> httpx.AsyncClient:
        """A client without a key."""
        return httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S, verify=NO_TLS, **options)

    async def engine_stats(self) -> dict[str, Any]:
        socket = str(self.data_dir / "engine.sock")
        transport = httpx.AsyncHTTPTransport(uds=socket, verify=NO_TLS)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return dict((await client.get("/stats")).json())

    async def health(self) -> dict[str, Any]:
        async with self.stranger() as client:
            return dict((await client.get("/health/ready")).json())

    async def idle(self) -> None:
        """Returns when no request waits or runs."""
        async with asyncio.timeout(PATIENCE_S):
            while (health := await self.health())["waiting"] or health["running"]:
                await asyncio.sleep(0.02)

    async def tenant(self, name: str) -> tuple[str, str]:
        """A new tenant's id, and the API key of an app of the tenant."""
        async with self.admin() as admin:

            async def make(path: str, made: str) -> dict[str, Any]:
                answer = await admin.post(path, json={"name": made})
                return dict(answer.raise_for_status().json())

            tenant = await make("/admin/tenants", name)
            app = await make(f"/admin/tenants/{tenant['id']}/apps", "app")
            return tenant["id"], (await make(f"/admin/apps/{app['id']}/keys", "key"))["secret"]

    async def history(self, tenant: str, url: str | None = None) -> int:
        """A tenant's records in the embedded Postgres, or in that of an address."""
        database = await Database.open(url or EmbeddedPostgres(self.data_dir).url)
        counted = select(func.count()).select_from(RequestRecord).filter_by(tenant_id=tenant)
        async with database.sessions() as session:
            count = await session.scalar(counted)
        await database.close()
        return count or 0


async def streamed_across(
    client: openai.AsyncOpenAI, request: dict[str, Any], fault: Callable[[], None]
) -> list[str]:
    """The pieces of a stream, after the second of which the fault is caused."""
    pieces = []
    async for chunk in await client.chat.completions.create(**request, stream=True):
        pieces.append(chunk.choices[0].delta.content or "")
        if len(pieces) == 2:
            fault()
    return pieces


class Restartable:
    """A gateway with little KV memory, started again after a test stopped or killed it."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._gateway: Served | None = None

    async def running(self) -> Served:
        """The gateway, ready."""
        if self._gateway is None or self._gateway.process.poll() is not None:
            self._gateway = Served(self._data_dir, LMAAS_KV_TOKENS="2048")
        return await self._gateway.ready()

    async def close(self) -> None:
        gateway = self._gateway
        if gateway is not None and gateway.process.poll() is None:
            assert await gateway.stop() == 0, gateway.errors.read_text()


@pytest.fixture(scope="session")
def data_root() -> Iterator[Path]:
    """The folder of all data folders; its path is short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="lmaas-e2e-"))
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
async def served(data_root: Path) -> AsyncIterator[Served]:
    """The gateway of all tests that leave it running and unchanged."""
    gateway = await Served(data_root / "shared", LMAAS_EMBEDDER="").ready()
    yield gateway
    assert await gateway.stop() == 0, gateway.errors.read_text()


@pytest.fixture(scope="session")
async def own(data_root: Path) -> AsyncIterator[Restartable]:
    """The gateway of the files whose tests stop or kill it."""
    restartable = Restartable(data_root / "own")
    yield restartable
    await restartable.close()


@pytest.fixture
async def client(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, unmodified."""
    async with served.client() as client:
        yield client


def asked(job: str, text: str, **more: Any) -> dict[str, Any]:
    """A greedy chat request for one of the demo jobs."""
    return {
        "model": "lmaas-demo",
        "temperature": 0,
        "messages": [
            {"role": "system", "content": INSTRUCTIONS[job]},
            {"role": "user", "content": text},
        ],
        **more,
    }


@pytest.fixture(name="asked")
def asked_fixture() -> Any:
    return asked


@pytest.fixture(name="environment")
def environment_fixture() -> Any:
    return environment


def starting(data_root: Path) -> Iterator[Any]:
    """Starts gateways; kills those that still run at the end."""
    started: list[Served] = []

    def start(name: str, **settings: str) -> Served:
        started.append(Served(data_root / name, **settings))
        return started[-1]

    yield start
    for gateway in started:
        if gateway.process.poll() is None:
            for process in gateway.family():
                process.kill()
            gateway.process.kill()
            gateway.process.wait()


@pytest.fixture
def serve(data_root: Path) -> Iterator[Any]:
    """Starts gateways for one test."""
    yield from starting(data_root)


@pytest.fixture(scope="module")
def start_gateway(data_root: Path) -> Iterator[Any]:
    """Starts gateways for the tests of a file."""
    yield from starting(data_root)
