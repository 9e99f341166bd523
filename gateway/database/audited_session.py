"""Sessions that commit no change of what the audit trail covers without an entry in it.

What adds an entry is `gateway.history.audit`. Statements of literal SQL are not seen here: none
changes an audited table, but for the times at which keys were last used.
"""

from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session

from models import (
    ApiKey,
    App,
    AuditEntry,
    Predictor,
    Price,
    ScopedKey,
    StoredLimit,
    Tenant,
    TrainingSchedule,
)

AUDITED: Final = (
    ApiKey,
    App,
    Predictor,
    Price,
    ScopedKey,
    StoredLimit,
    Tenant,
    TrainingSchedule,
)
CHANGED: Final = "changed"  # keys of a session's `info`
NOTED: Final = "noted"


class UnauditedChangeError(RuntimeError):
    """A defect of the gateway: a change without an entry of the audit trail."""


class AuditedSession(Session):
    """A session whose commit raises UnauditedChangeError for a change that has no entry."""


@event.listens_for(AuditedSession, "before_flush")
def _see_objects(session: Session, _context: object, _instances: object) -> None:
    for row in (*session.new, *session.deleted, *session.dirty):
        if isinstance(row, AuditEntry):
            session.info[NOTED] = True
        elif isinstance(row, AUDITED) and (row not in session.dirty or session.is_modified(row)):
            _changed(session).add(type(row).__tablename__)


@event.listens_for(AuditedSession, "do_orm_execute")
def _see_statement(state: ORMExecuteState) -> None:
    mapper = state.bind_mapper
    if mapper is not None and (state.is_insert or state.is_update or state.is_delete):
        if mapper.class_ is AuditEntry:
            state.session.info[NOTED] = True
        elif issubclass(mapper.class_, AUDITED):
            _changed(state.session).add(mapper.class_.__tablename__)


@event.listens_for(AuditedSession, "before_commit")
def _require_entry(session: Session) -> None:
    session.flush()
    changed, noted = _changed(session), session.info.get(NOTED, False)
    _forget(session)
    if changed and not noted:
        raise UnauditedChangeError(f"{', '.join(sorted(changed))} changed without an audit entry")


@event.listens_for(AuditedSession, "after_rollback")
def _forget(session: Session) -> None:
    session.info.pop(CHANGED, None)
    session.info.pop(NOTED, None)


def _changed(session: Session) -> set[Any]:
    """The tables that the session's transaction changed."""
    found: set[Any] = session.info.setdefault(CHANGED, set())
    return found
