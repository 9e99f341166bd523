"""Keys: the keys of each app, to make, rotate and revoke."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from gateway.api.admin.actor import Actor
from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.pages.sign_in import MAX_FORM_BYTES
from gateway.dashboard.view.templates import fragment, page
from gateway.tenancy.apps import Apps
from gateway.tenancy.keys import ApiKeys, NewKey
from gateway.tenancy.naming import MAX_NAME_CHARACTERS
from gateway.tenancy.paging import MAX_LIMIT, Cursor
from gateway.tenancy.scopes import Scope

OVERLAP_S: Final = 86_400.0  # for which a rotated key stays valid
STAMP: Final = re.compile(r" \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$")
STAMP_CHARACTERS: Final = 20

After = Annotated[UUID | None, QueryParameter(description="the last app of the page before")]


class KeysController(Controller):
    """Lists apps and their keys; makes, rotates and revokes keys as the admin API does."""

    path = "/page/keys"
    opt = page_of(Scope.TENANTS)

    @get("/")
    async def show(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        apps: NamedDependency[Apps],
        after: After = None,
    ) -> Response[str]:
        """The apps."""
        found = await apps.list_all(Cursor(MAX_LIMIT, after))
        return page(
            "keys.html",
            viewer,
            session,
            path=self.path,
            apps=found.items,
            more=found.items[-1].app.id if found.more else None,
        )

    @get("/{app_id:uuid}")
    async def show_keys(
        self, app_id: FromPath[UUID], viewer: Looking, keys: NamedDependency[ApiKeys]
    ) -> Response[str]:
        """The keys of an app."""
        return await _keys(app_id, keys, changes=viewer.may(Scope.TENANTS, reads=False))

    @post("/{app_id:uuid}", status_code=200, request_max_body_size=MAX_FORM_BYTES)
    async def create(
        self,
        app_id: FromPath[UUID],
        request: Request[Any, Any, Any],
        keys: NamedDependency[ApiKeys],
        actor: Actor,
    ) -> Response[str]:
        """Make a key; its secret is shown once."""
        name = str((await request.form()).get("name", ""))
        made = await keys.create(app_id, name, by=actor)
        return await _keys(app_id, keys, changes=True, made=made)

    @post("/{app_id:uuid}/{key_id:uuid}/rotate", status_code=200)
    async def rotate(
        self,
        app_id: FromPath[UUID],
        key_id: FromPath[UUID],
        keys: NamedDependency[ApiKeys],
        actor: Actor,
    ) -> Response[str]:
        """Make a key in place of another, which stays valid for a day."""
        old = await keys.show(key_id)
        made = await keys.rotate(key_id, next_name(old.name), overlap_s=OVERLAP_S, by=actor)
        return await _keys(app_id, keys, changes=True, made=made)

    @post("/{app_id:uuid}/{key_id:uuid}/revoke", status_code=200)
    async def revoke(
        self,
        app_id: FromPath[UUID],
        key_id: FromPath[UUID],
        keys: NamedDependency[ApiKeys],
        actor: Actor,
    ) -> Response[str]:
        """Revoke a key."""
        await keys.revoke(key_id, by=actor)
        return await _keys(app_id, keys, changes=True)


def next_name(name: str) -> str:
    """A name for the key that comes after one: with the present time in place of an earlier one."""
    first = STAMP.sub("", name)[: MAX_NAME_CHARACTERS - STAMP_CHARACTERS].rstrip()
    return f"{first} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


async def _keys(
    app_id: UUID, keys: ApiKeys, *, changes: bool, made: NewKey | None = None
) -> Response[str]:
    listed = await keys.list(app_id, Cursor(MAX_LIMIT))
    return fragment(
        "app_keys.html",
        app_id=app_id,
        keys=listed.items,
        more=listed.more,
        made=made,
        changes=changes,
    )
