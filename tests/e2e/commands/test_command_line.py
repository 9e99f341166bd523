"""`lmaas admin` against the running gateway, which it finds by the data folder."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from typing import Any

from tests.e2e.conftest import ADMIN_KEY, API_KEY


async def test_gateway_on_a_free_port_is_found_by_its_data_folder(
    served: Any, environment: Any
) -> None:
    tenant, _ = await served.tenant("found by name")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "admin", "tenants", "show", "found by name"),
        stdout=PIPE,
        stderr=PIPE,
        env=environment(served.data_dir),
    )
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert output.decode().splitlines()[0].split() == ["id", tenant]
    file = served.data_dir / "server.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert served.url in file.read_text()
    assert not any(key in file.read_text() for key in (ADMIN_KEY, API_KEY))
