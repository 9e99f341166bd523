"""The demo tenant that the first start creates."""

import asyncio

from gateway.database.errors import Sessions
from gateway.tenancy.apps import Apps
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.demo import ensure_demo
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


async def test_second_start_creates_nothing(sessions: Sessions) -> None:
    await ensure_demo(sessions, APPS)
    assert await ensure_demo(sessions, [*APPS, ("more", "More.")], "another-key") is None
    assert len((await Tenants(sessions).list(Cursor())).items) == 1


async def test_one_of_several_concurrent_first_starts_creates_the_key(sessions: Sessions) -> None:
    secrets = await asyncio.gather(*(ensure_demo(sessions, APPS) for _ in range(4)))
    made = [secret for secret in secrets if secret is not None]
    assert len(made) == 1
    assert (await Authenticator(sessions).authenticate(made[0])).app == "playground"
