"""The demo tenant that the first start creates."""

import asyncio
from pathlib import Path

import pytest

from gateway.database.errors import Sessions
from gateway.errors import Unauthenticated
from gateway.tenancy.apps import Apps
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.demo import ensure_demo
from gateway.tenancy.keys import ApiKeys
from gateway.tenancy.paging import Cursor
from gateway.tenancy.tenants import Tenants

APPS = [("translate", "Translate into Velan."), ("stories", "Write a story.")]


async def test_first_start_creates_a_key_for_the_playground(sessions: Sessions) -> None:
    secret = await ensure_demo(sessions, APPS)
    assert secret is not None
    caller = await Authenticator(sessions).authenticate(secret)
    assert (caller.tenant, caller.app, caller.instruction) == ("demo", "playground", None)


async def test_every_given_app_is_created_with_its_instruction(sessions: Sessions) -> None:
    await ensure_demo(sessions, APPS)
    tenant = (await Tenants(sessions).list(Cursor())).items[0]
    apps = (await Apps(sessions).list(tenant.id, Cursor())).items
    assert [(app.name, app.instruction) for app in apps] == [("playground", None), *APPS]


async def test_given_key_is_the_one_that_works(sessions: Sessions) -> None:
    assert await ensure_demo(sessions, [], "my-own-key") == "my-own-key"
    assert (await Authenticator(sessions).authenticate("my-own-key")).tenant == "demo"


async def test_key_that_is_made_is_kept_in_the_file(sessions: Sessions, tmp_path: Path) -> None:
    file = tmp_path / "api_key"
    secret = await ensure_demo(sessions, APPS, file=file)
    assert file.read_text() == f"{secret}\n"
    assert file.stat().st_mode & 0o777 == 0o600


async def test_key_in_the_file_is_that_of_an_empty_database(
    sessions: Sessions, tmp_path: Path
) -> None:
    (tmp_path / "api_key").write_text("kept-from-another-database\n")
    secret = await ensure_demo(sessions, APPS, file=tmp_path / "api_key")
    assert secret == "kept-from-another-database"
    assert (await Authenticator(sessions).authenticate(secret)).tenant == "demo"


async def test_no_key_is_kept_that_was_given_or_that_another_start_made(
    sessions: Sessions, tmp_path: Path
) -> None:
    await ensure_demo(sessions, APPS, "my-own-key", tmp_path / "api_key")
    await ensure_demo(sessions, APPS, file=tmp_path / "api_key")
    assert list(tmp_path.iterdir()) == []


async def test_key_given_later_works_too(sessions: Sessions) -> None:
    first = await ensure_demo(sessions, APPS)
    assert first is not None
    for _ in range(2):
        assert await ensure_demo(sessions, APPS, "a-later-key") is None
    for key in (first, "a-later-key"):
        assert (await Authenticator(sessions).authenticate(key)).app == "playground"


async def test_given_key_that_was_revoked_stays_revoked(sessions: Sessions) -> None:
    await ensure_demo(sessions, APPS, "a-revoked-key")
    authenticator = Authenticator(sessions)
    caller = await authenticator.authenticate("a-revoked-key")
    await ApiKeys(sessions, authenticator).revoke(caller.api_key_id, by="admin")
    assert await ensure_demo(sessions, APPS, "a-revoked-key") is None
    with pytest.raises(Unauthenticated):
        await Authenticator(sessions).authenticate("a-revoked-key")


async def test_second_start_creates_no_tenant(sessions: Sessions) -> None:
    await ensure_demo(sessions, APPS)
    assert await ensure_demo(sessions, [*APPS, ("more", "More.")], "another-key") is None
    assert len((await Tenants(sessions).list(Cursor())).items) == 1


async def test_one_of_several_concurrent_first_starts_creates_the_key(sessions: Sessions) -> None:
    secrets = await asyncio.gather(*(ensure_demo(sessions, APPS) for _ in range(4)))
    made = [secret for secret in secrets if secret is not None]
    assert len(made) == 1
    assert (await Authenticator(sessions).authenticate(made[0])).app == "playground"
