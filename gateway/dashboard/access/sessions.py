"""Sessions of signed-in browsers, kept in memory: a cookie stands for a key.

A session holds the key itself, so that every request is authorised by the key as a call of the API
would be: a revoked key ends its sessions. The cookie's value is a random token, of which only the
digest is kept.
"""

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec import Struct

from gateway.tenancy.secret import digest

MAX_SESSIONS: Final = 1_000
MAX_SESSIONS_OF_KEY: Final = 20
MAX_AGE_S: Final = 12 * 3600.0
TOKEN_BYTES: Final = 32


class Session(Struct, eq=False):
    """A signed-in browser: its key, and the app key that it chats with, if it has another.

    It ends at `ends_s`, monotonic, or earlier once it is `ended`.
    """

    secret: str
    csrf: str
    ends_s: float
    app_secret: str | None = None
    streams: int = 0  # live streams that are open
    ended: bool = False

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.ended or self.ends_s <= time.monotonic()

    def allows(self, csrf: str) -> bool:
        """Whether this is the session's token against cross-site requests."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode())

    def __repr__(self) -> str:
        return "Session()"


class NewSession(NamedTuple):
    """A session, and the token that its cookie gets."""

    token: str
    session: Session


class Sessions:
    """At most `MAX_SESSIONS` sessions, of which `MAX_SESSIONS_OF_KEY` have the same key.

    The oldest makes room for a new one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def start(self, secret: str) -> NewSession:
        """A session for a valid key."""
        self._forget_old()
        same = [name for name, each in self._sessions.items() if each.secret == secret]
        for name in same[: max(len(same) - MAX_SESSIONS_OF_KEY + 1, 0)]:
            self._end(name)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        session = Session(secret, secrets.token_urlsafe(TOKEN_BYTES), self._clock() + MAX_AGE_S)
        self._sessions[digest(token)] = session
        while len(self._sessions) > MAX_SESSIONS:
            self._end(next(iter(self._sessions)))
        return NewSession(token, session)

    def find(self, token: str) -> Session | None:
        """The session of this token; None if there is none, or it has ended."""
        session = self._sessions.get(digest(token))
        return session if session is not None and session.ends_s > self._clock() else None

    def end(self, session: Session) -> None:
        """Sign out."""
        for name in [name for name, each in self._sessions.items() if each is session]:
            self._end(name)

    def _forget_old(self) -> None:
        now_s = self._clock()
        for name in [name for name, each in self._sessions.items() if each.ends_s <= now_s]:
            self._end(name)

    def _end(self, name: bytes) -> None:
        """End a session, and with it its live views."""
        self._sessions.pop(name).ended = True
