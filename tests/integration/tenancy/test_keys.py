"""What keys allow, and when they were used."""

from datetime import UTC, datetime

import pytest
from msgspec import convert
from sqlalchemy import update

from gateway.database.errors import Sessions
from gateway.errors import InvalidRequest, NotFound
from gateway.history.audit import AuditTrail
from gateway.history.key_uses import KeyUses
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.keys import ApiKeys
from gateway.usage.limits.limits import Limits, NewLimit
from models import ApiKey
from models.base import new_id
from tests.conftest import PATIENCE_S, Builder


async def test_use_of_a_key_is_written_once_for_many_requests(
    sessions: Sessions, build: Builder
) -> None:
    used, unused = await build.key(), await build.key()
    uses = KeyUses(sessions)
    authenticator = Authenticator(sessions, key_lookup_s=PATIENCE_S, used=uses.note)
    began = datetime.now(UTC)
    for _ in range(3):
        await authenticator.authenticate(used.secret)
    keys = ApiKeys(sessions, authenticator)
    assert (await keys.show(used.key.id)).last_used_at is None
    await uses.write()
    shown = (await keys.show(used.key.id)).last_used_at
    assert shown is not None
    assert began <= shown <= datetime.now(UTC)
    assert (await keys.show(unused.key.id)).last_used_at is None
    later = datetime.now(UTC)
    async with sessions.begin() as session:
        connection = await session.connection()
        await connection.execute(update(ApiKey).values(last_used_at=later))
    uses.note(used.key.id)
    await uses.close()
    written = (await keys.show(used.key.id)).last_used_at
    assert written is not None
    assert written > later


async def test_use_of_a_locked_key_is_left_out_and_holds_up_no_other(
    sessions: Sessions, build: Builder
) -> None:
    locked, free = await build.key(), await build.key()
    uses, keys = KeyUses(sessions), ApiKeys(sessions, build.authenticator)
    uses.note(locked.key.id)
    uses.note(free.key.id)
    async with sessions.begin() as session:
        await session.get_one(ApiKey, locked.key.id, with_for_update=True)
        await uses.write()
    assert (await keys.show(free.key.id)).last_used_at is not None
    assert (await keys.show(locked.key.id)).last_used_at is None


async def test_rules_of_a_key_reach_its_callers_and_its_successor(
    sessions: Sessions, build: Builder
) -> None:
    limits_changed: list[None] = []

    async def note_change() -> None:
        limits_changed.append(None)

    keys = ApiKeys(sessions, build.authenticator, note_change)
    app = await build.app()
    new = await keys.create(
        app.id, "old", service_tiers=["flex", "default"], min_deadline_s=2.0, by="admin"
    )
    caller = await build.authenticator.authenticate(new.secret)
    assert (caller.service_tiers, caller.min_deadline_s) == (("default", "flex"), 2.0)
    for kind, effect in (("tokens_per_day", "hard"), ("requests_per_minute", "warn")):
        wanted = {"level": "key", "owner": str(new.key.id), "kind": kind, "value": "9"}
        await Limits(sessions).set(convert(wanted | {"effect": effect}, NewLimit), by="admin")
    successor = await keys.rotate(new.key.id, "new", overlap_s=0.0, by="admin")
    caller = await build.authenticator.authenticate(successor.secret)
    assert (caller.service_tiers, caller.min_deadline_s) == (("default", "flex"), 2.0)
    owned = [
        [(each.limit.quantity, each.limit.amount, each.limit.effect) for each in found]
        for key in (new.key, successor.key)
        for found in [await Limits(sessions).list(limit=9, level="key", owner=str(key.id))]
    ]
    assert owned[0] == owned[1]
    assert len(owned[0]) == 2
    assert limits_changed == [None]
    await keys.change(
        successor.key.id,
        service_tiers=["priority", "default", "flex"],
        min_deadline_s=0.0,
        by="olga",
    )
    caller = await build.authenticator.authenticate(successor.secret)
    assert (caller.service_tiers, caller.min_deadline_s) == (None, None)
    (entry,) = await AuditTrail(sessions).list(10, subject=str(successor.key.id))
    assert (entry.actor, entry.action, entry.before, entry.after) == (
        "olga",
        "key.changed",
        {"service_tiers": ["default", "flex"], "min_deadline_s": 2.0},
        {"service_tiers": None, "min_deadline_s": None},
    )


async def test_rules_that_are_not_accepted_name_what_is(sessions: Sessions, build: Builder) -> None:
    keys, new = ApiKeys(sessions, build.authenticator), await build.key()
    with pytest.raises(InvalidRequest, match="'gold' is none of them; accepted is one or more"):
        await keys.create(new.key.app_id, "x", service_tiers=["flex", "gold"], by="admin")
    with pytest.raises(InvalidRequest, match="accepted is one or more of default, flex"):
        await keys.change(new.key.id, service_tiers=[], by="olga")
    with pytest.raises(InvalidRequest, match="min_deadline_s is -1; accepted is 0 to 86400"):
        await keys.change(new.key.id, min_deadline_s=-1.0, by="olga")
    with pytest.raises(InvalidRequest, match="nothing to change"):
        await keys.change(new.key.id, by="olga")
    with pytest.raises(NotFound):
        await keys.change(new_id(), name="x", by="olga")
