"""Finds the ids of tenants, apps, keys, versions and runs by their names, with few requests."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final
from uuid import UUID

from gateway.cli.admin.client import AdminClient
from gateway.errors import InvalidRequest, NotFound

MAX_SEARCHED: Final = 1_000  # names among which similar ones are looked for
MAX_LISTED: Final = 5
MIN_ID_PART: Final = 4  # characters
SIMILARITY: Final = 0.5

ACTIVE, LATEST, PREVIOUS = "active", "latest", "previous"


class Names:
    """Ids by name. An id is returned as it is, without a request.

    NotFound lists similar names; InvalidRequest lists the candidates of an ambiguous name.
    """

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    def tenant(self, given: str) -> str:
        """A tenant's id, from its name."""
        return self._only("tenant", given, "/admin/tenants")

    def scoped_key(self, given: str) -> str:
        """A scoped key's id, from its name."""
        return self._only("scoped key", given, "/admin/scoped-keys")

    def app(self, given: str) -> str:
        """An app's id, from TENANT/APP, or from APP if no other tenant has an app of that name."""
        if is_id(given):
            return given
        found = [app for tenant, name in _splits(given) for app in self._apps(tenant, name)]
        found = found or self._apps(None, given)
        match found:
            case [app]:
                return str(app["id"])
            case []:
                apps = self._client.all("/admin/apps")
                raise _unknown("app", given, (_path(app) for app in apps))
        candidates = ", ".join(f"{_path(app)} ({app['id']})" for app in found)
        raise InvalidRequest(f"several apps are named {given!r}: {candidates}")

    def key(self, given: str) -> str:
        """An API key's id, from TENANT/APP/KEY; of equal names that of the key still valid."""
        if is_id(given):
            return given
        app, slash, name = given.rpartition("/")
        if not slash:
            raise InvalidRequest(f"{given!r} is neither a key's id nor TENANT/APP/KEY")
        path = f"/admin/apps/{self.app(app)}/keys"
        keys = list(self._client.all(path, name=name))
        found = [key for key in keys if key["revoked_at"] is None] or keys
        match found:
            case [key]:
                return str(key["id"])
            case []:
                known = (f"{app}/{key['name']}" for key in self._client.all(path))
                raise _unknown("key", given, known)
        candidates = ", ".join(f"{key['prefix']}… ({key['id']})" for key in found)
        raise InvalidRequest(f"several keys are named {given!r}: {candidates}")

    def version(self, given: str) -> str:
        """A version's id, from `active`, `latest`, `previous` or a part of the id."""
        if is_id(given):
            return given
        versions = self._client.get("/admin/predictors", limit=100)["data"]
        active = next((each for each in versions if each["state"] == ACTIVE), None)
        named = {
            LATEST: versions[0]["id"] if versions else None,
            ACTIVE: active and active["id"],
            PREVIOUS: active and active["replaced_id"],
        }
        return _by_part("version", given, named, [each["id"] for each in versions])

    def run(self, given: str) -> str:
        """A training run's id, from `latest` or a part of the id."""
        if is_id(given):
            return given
        runs = [each["id"] for each in self._client.get("/admin/training-runs", limit=100)["data"]]
        return _by_part("training run", given, {LATEST: runs[0] if runs else None}, runs)

    def _only(self, kind: str, given: str, path: str) -> str:
        """The id of the item of a name that only one item has."""
        if is_id(given):
            return given
        found = self._client.get(path, name=given)["data"]
        if found:
            return str(found[0]["id"])
        raise _unknown(kind, given, (item["name"] for item in self._client.all(path)))

    def _apps(self, tenant: str | None, name: str) -> list[dict[str, Any]]:
        of = {} if tenant is None else {"tenant": tenant}
        found: list[dict[str, Any]] = self._client.get("/admin/apps", name=name, limit=100, **of)[
            "data"
        ]
        return found


def is_id(given: str) -> bool:
    """Whether it is an id, not a name."""
    try:
        UUID(given)
    except ValueError:
        return False
    return True


def _splits(given: str) -> list[tuple[str, str]]:
    """Every (tenant, app) that the words may name: names may have slashes, too."""
    places = [place for place, character in enumerate(given) if character == "/"]
    return [(given[:place], given[place + 1 :]) for place in places]


def _path(app: dict[str, Any]) -> str:
    return f"{app['tenant']}/{app['name']}"


def _by_part(kind: str, given: str, named: dict[str, str | None], ids: Sequence[str]) -> str:
    """The id that a word stands for, or the only one that begins or ends with it."""
    if given in named:
        found = named[given]
        if found is None:
            raise NotFound(f"there is no {given} {kind}")
        return found
    matching = [each for each in ids if each.startswith(given) or each.endswith(given)]
    if len(given) >= MIN_ID_PART and len(matching) == 1:
        return matching[0]
    if len(given) >= MIN_ID_PART and matching:
        listed = ", ".join(matching[:MAX_LISTED])
        raise InvalidRequest(f"several ids of a {kind} begin or end with {given!r}: {listed}")
    words = ", ".join(named)
    raise NotFound(
        f"there is no {kind} {given!r}; accepted are {words}, an id, and {MIN_ID_PART} or more "
        "characters from the beginning or end of an id"
    )


def _unknown(kind: str, given: str, known: Iterable[str]) -> NotFound:
    names = list(islice(known, MAX_SEARCHED))
    similar = get_close_matches(given, names, MAX_LISTED, SIMILARITY)
    if similar:
        return NotFound(f"there is no {kind} {given!r}; similar names: {', '.join(similar)}")
    if not names:
        return NotFound(f"there is no {kind} {given!r}, nor any other")
    listed = ", ".join(names[:MAX_LISTED]) + (", …" if len(names) > MAX_LISTED else "")
    return NotFound(f"there is no {kind} {given!r}; there are {listed}")
