"""A viewer: a key of the admin API, or the key of an app, with the rights it has in the APIs."""

from typing import Self
from uuid import UUID

from msgspec import Struct

from gateway.errors import Forbidden, Unauthenticated
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.caller import Caller
from gateway.tenancy.scopes import AdminAccess, Grant, Scope


class Viewer(Struct, frozen=True, kw_only=True):
    """Who looks: `grant` for a key of the admin API, else `caller` for an app's key.

    `chats` is the app that the playground's requests are of: `caller`, or that of a second key.
    """

    grant: Grant | None = None
    caller: Caller | None = None
    chats: Caller | None = None

    @classmethod
    def of_app(cls, caller: Caller) -> Self:
        """The viewer of an app's key."""
        return cls(caller=caller, chats=caller)

    @property
    def name(self) -> str:
        """What the page calls it."""
        if self.caller is not None:
            return f"{self.caller.tenant} / {self.caller.app}"
        assert self.grant is not None
        return self.grant.name

    @property
    def tenant(self) -> UUID | None:
        """The only tenant whose requests it may see; None: all."""
        return None if self.caller is None else self.caller.tenant_id

    def may(self, area: Scope | None, *, reads: bool = True, own: bool = False) -> bool:
        """Whether it may use a page of this area; `own` pages show an app's key what is its own."""
        if self.grant is None:
            return own and reads
        return self.grant.allows(area, reads=reads)

    def check(self, area: Scope | None, *, reads: bool, own: bool) -> None:
        """Forbidden unless it may."""
        if self.grant is not None:
            self.grant.check(area, reads=reads)
        elif not (own and reads):
            raise Forbidden("an app's key may not see this; sign in with a key of the admin API")


class Viewers:
    """Finds the viewer of a key, by the checks of the APIs."""

    def __init__(self, admission: AdminAccess, authenticator: Authenticator) -> None:
        self._admission = admission
        self._authenticator = authenticator

    async def viewer(self, secret: str, app_secret: str | None = None) -> Viewer:
        """The viewer of a key. Unauthenticated; DatabaseLost."""
        if self._admission.is_admin(secret):
            return await self._with_app(await self._admission.find(secret), app_secret)
        try:
            return Viewer.of_app(await self._authenticator.authenticate(secret))
        except Unauthenticated:
            pass
        try:
            grant = await self._admission.find(secret)
        except Unauthenticated as error:
            raise Unauthenticated("the key is unknown or revoked, or has expired") from error
        return await self._with_app(grant, app_secret)

    async def caller(self, secret: str) -> Caller:
        """The app of a key. Unauthenticated; DatabaseLost."""
        return await self._authenticator.authenticate(secret)

    async def _with_app(self, grant: Grant, app_secret: str | None) -> Viewer:
        if app_secret is None:
            return Viewer(grant=grant)
        try:
            return Viewer(grant=grant, chats=await self.caller(app_secret))
        except Unauthenticated:
            return Viewer(grant=grant)
