"""Audit and settings: who changed what, and what the gateway was started with."""

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec import Struct

from gateway.api.validation import STORABLE
from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.view.templates import page
from gateway.history.audit import AuditTrail
from gateway.settings import SECRETS, Settings
from models import AuditEntry

ROWS: Final = 50
MAX_CHANGE: Final = 400  # characters
HIDDEN: Final = "set, not shown"

Before = Annotated[UUID | None, QueryParameter(description="the last entry of the page before")]
Subject = Annotated[str | None, QueryParameter(pattern=STORABLE, max_length=200)]


class EntryRow(Struct, frozen=True):
    """An entry, and what it changed, in words."""

    entry: AuditEntry
    change: str


class SettingRow(Struct, frozen=True):
    """A setting: its variable, the value in force, and what it means."""

    variable: str
    value: str
    changed: bool
    meaning: str


class AuditController(Controller):
    """Shows the audit trail, to the admin key alone."""

    path = "/page/audit"
    opt = page_of()

    @get("/")
    async def show(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        trail: NamedDependency[AuditTrail],
        before: Before = None,
        subject: Subject = None,
    ) -> Response[str]:
        """The newest entries."""
        found = await trail.list(ROWS + 1, before=before, subject=subject or None)
        rows = [EntryRow(entry, change_of(entry)) for entry in found[:ROWS]]
        return page(
            "audit.html",
            viewer,
            session,
            path=self.path,
            rows=rows,
            subject=subject or "",
            more=found[ROWS - 1].id if len(found) > ROWS else None,
        )


class SettingsController(Controller):
    """Shows the settings in force, to the admin key alone; secrets are not shown."""

    path = "/page/settings"
    opt = page_of()

    @get("/")
    async def show(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        settings: NamedDependency[Settings],
    ) -> Response[str]:
        """The settings."""
        return page("settings.html", viewer, session, path=self.path, rows=setting_rows(settings))


def change_of(entry: AuditEntry) -> str:
    """The fields that changed, from what to what."""
    before, after = entry.before or {}, entry.after or {}
    parts = []
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) == after.get(name):
            continue
        left = f"{_short(before[name])} → " if name in before else ""
        parts.append(f"{name.replace('_', ' ')}: {left}{_short(after.get(name))}")
    return ", ".join(parts)[:MAX_CHANGE]


def setting_rows(settings: Settings) -> list[SettingRow]:
    """Each setting in the order of the reference."""
    (_, components) = msgspec.json.schema_components([Settings])
    properties: dict[str, dict[str, Any]] = components["Settings"]["properties"]
    given: dict[str, Any] = msgspec.to_builtins(settings)
    return [
        SettingRow(
            variable=name,
            value=_shown(name, given.get(name)),
            changed=given.get(name) != schema.get("default"),
            meaning=str(schema["description"]),
        )
        for name, schema in properties.items()
    ]


def _shown(name: str, value: object) -> str:
    if value is None or value == "":
        return "unset"
    return HIDDEN if name in SECRETS else _short(value)


def _short(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
