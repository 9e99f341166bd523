"""`lmaas demo` against a running gateway."""

import asyncio
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai

from engine.checkpoints.catalogue import DEMO_FOLDER
from engine.demo.jobs import JOBS
from gateway.cli.admin.client import AdminClient
from gateway.demo.apps import read_apps
from gateway.demo.tenant import demo_tenant
from tests.conftest import PATIENCE_S
from tests.e2e.conftest import ADMIN_KEY

WARNING = r"Warning: meanwhile the server had [1-9]\d* requests that are not the demo's"
TRAINING_REQUESTS = 100  # requests that a first training needs


async def start_demo(url: str, environment: Any, picture: Path, *options: str) -> Process:
    arguments = ["demo", "--url", url, "--picture", str(picture), *options]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env=environment(picture.parent),
        preexec_fn=restore_sigint,
    )


def restore_sigint() -> None:
    """Handle Ctrl-C as on a terminal: background processes of a shell inherit an ignored SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def ended(demo: Process) -> tuple[int, str, str]:
    output, errors = await demo.communicate()
    assert demo.returncode is not None
    return demo.returncode, output.decode(), errors.decode()


async def demo_apps(admin: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The apps of the demo's tenant; none if it does not exist."""
    tenants = (await admin.get("/admin/tenants?limit=100")).json()["data"]
    ids = [tenant["id"] for tenant in tenants if tenant["name"] == "lmaas demo"]
    assert len(ids) <= 1
    pages = [(await admin.get(f"/admin/tenants/{id_}/apps?limit=100")).json() for id_ in ids]
    return [app for page in pages for app in page["data"]]


async def demo_keys(admin: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The keys that demos created."""
    apps = await demo_apps(admin)
    pages = [(await admin.get(f"/admin/apps/{app['id']}/keys?limit=100")).json() for app in apps]
    return [key for page in pages for key in page["data"] if key["name"] == "lmaas demo"]


async def asking(client: openai.AsyncOpenAI, question: dict[str, Any]) -> None:
    """Send the same request until cancelled."""
    while True:
        await client.chat.completions.create(**question)


async def all_restored(admin: httpx.AsyncClient, policy: str, keys: int) -> bool:
    """Whether `policy` is active again, and all created keys, at least `keys`, are revoked."""
    made = await demo_keys(admin)
    assert len(made) >= keys
    active = (await admin.get("/admin/policy")).json()["name"]
    return active == policy and all(key["revoked_at"] for key in made)


async def test_failed_training_is_reported_and_everything_restored(
    own: Any, environment: Any, tmp_path: Path
) -> None:
    gateway = await own.running()  # `own` has served no 100 requests yet
    demo = await start_demo(gateway.url, environment, tmp_path / "demo.png", "--requests", "14")
    code, _, errors = await ended(demo)
    assert code == 1
    assert "lmaas: the training run failed: training needs at least 100" in errors
    async with gateway.admin() as admin:
        assert await all_restored(admin, "lmaas", keys=len(JOBS))


async def test_demo_shows_every_app_and_restores_everything(
    own: Any, asked: Any, environment: Any, tmp_path: Path
) -> None:
    gateway = await own.running()
    async with gateway.client() as client, gateway.admin() as admin:
        questions = [
            asked("translate", "brave queen " * (1 + n % 9)) for n in range(TRAINING_REQUESTS)
        ]
        await asyncio.gather(*(client.chat.completions.create(**each) for each in questions))
        await admin.put("/admin/policy", json={"name": "hrrn"})
        try:
            demo = await start_demo(
                gateway.url, environment, tmp_path / "demo.png", "--requests", "40"
            )
            code, output, errors = await ended(demo)
            assert code == 0, errors
            assert await all_restored(admin, "hrrn", keys=len(JOBS))
        finally:
            await admin.put("/admin/policy", json={"name": "lmaas"})
        (run,) = (await admin.get("/admin/training-runs?limit=1")).json()["data"]
    words = " ".join(output.split())
    trained = re.search(r"training on (\d+) requests \((\d+) of them not the demo's\)", words)
    assert trained is not None
    read, others = map(int, trained.groups())
    assert read == run["rows_read"]
    assert TRAINING_REQUESTS <= others <= read - 40
    assert "Warning" not in words
    rows = [line.split() for line in output.splitlines()]
    counts = {row[0]: int(row[1]) for row in rows if row and row[0] in {j.name for j in JOBS}}
    assert set(counts) == {job.name for job in JOBS}
    assert sum(counts.values()) == 40
    assert {row[0] for row in rows if row} >= {"all", "lmaas", "fixed"}
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


async def test_interrupted_demo_restores_everything(
    own: Any, environment: Any, tmp_path: Path
) -> None:
    gateway = await own.running()
    async with gateway.admin() as admin:
        before = len(await demo_keys(admin))
        demo = await start_demo(gateway.url, environment, tmp_path / "demo.png")
        async with asyncio.timeout(PATIENCE_S):
            while not (await gateway.health())["running"]:
                await asyncio.sleep(0.05)
        demo.send_signal(signal.SIGINT)
        code, _, errors = await ended(demo)
        assert code == 1
        assert "Traceback" not in errors
        assert await all_restored(admin, "lmaas", keys=before + len(JOBS))
    await gateway.idle()


async def test_unreachable_gateway_is_reported_in_one_line(
    environment: Any, tmp_path: Path
) -> None:
    demo = await start_demo("http://127.0.0.1:9", environment, tmp_path / "demo.png")
    code, output, errors = await ended(demo)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("lmaas: cannot reach http://127.0.0.1:9")


async def test_wrong_admin_key_is_reported_in_one_line(
    own: Any, environment: Any, tmp_path: Path
) -> None:
    gateway = await own.running()
    demo = await start_demo(
        gateway.url, environment, tmp_path / "demo.png", "--key", "sk-lmaas-unknown"
    )
    code, _, errors = await ended(demo)
    assert code == 1
    assert errors.startswith("lmaas: ")
    assert errors.count("\n") == 1


async def test_missing_folder_is_reported_before_any_request(
    own: Any, environment: Any, tmp_path: Path
) -> None:
    gateway = await own.running()
    async with gateway.admin() as admin:
        before = len(await demo_keys(admin))
        demo = await start_demo(
            gateway.url, environment, tmp_path / "demo.png", "--picture", "/x/y"
        )
        code, _, errors = await ended(demo)
        assert (code, len(await demo_keys(admin))) == (1, before)
    assert "/x" in errors


async def test_demo_warns_of_other_traffic(
    own: Any, asked: Any, environment: Any, tmp_path: Path
) -> None:
    gateway = await own.running()
    async with gateway.client() as client:
        other = asyncio.create_task(asking(client, asked("spell", "brave queen " * 12)))
        async with asyncio.timeout(PATIENCE_S):
            while not (await gateway.health())["running"]:
                await asyncio.sleep(0.05)
        demo = await start_demo(gateway.url, environment, tmp_path / "demo.png", "--requests", "14")
        assert demo.stdout is not None
        output = ""
        async with asyncio.timeout(PATIENCE_S):
            while not re.search(WARNING, " ".join(output.split())):
                more = await demo.stdout.read(4096)
                assert more, output
                output += more.decode()
        assert not other.done(), "the other traffic must last as long as the demo"
        demo.send_signal(signal.SIGINT)  # the warning is of the first pass
        await ended(demo)
        other.cancel()


async def test_next_demo_reuses_apps_and_revokes_leftover_keys(own: Any) -> None:
    served = await own.running()
    apps = read_apps(DEMO_FOLDER)
    async with served.admin() as reader:
        before = len(await demo_keys(reader))
    with closing(AdminClient(served.url, ADMIN_KEY)) as admin:
        with demo_tenant(admin, apps, print) as first:
            assert set(first.keys) == {app.name for app in apps}
        async with served.admin() as reader:
            for app in await demo_apps(reader):
                admin.post(f"/admin/apps/{app['id']}/keys", name="lmaas demo")  # of a killed demo
            with demo_tenant(admin, apps, print) as second:
                valid = [key for key in await demo_keys(reader) if not key["revoked_at"]]
            assert (second.id, len(await demo_apps(reader))) == (first.id, len(JOBS))
            assert len(valid) == len(JOBS)
            assert await all_restored(reader, "lmaas", keys=before + 3 * len(JOBS))
