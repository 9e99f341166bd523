"""Commands of operators to this gateway: its engines, its policy, its requests.

Each is noted in the audit trail through the spool, so that it also takes effect while the database
is away. A command that changes nothing leaves no entry.
"""

from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

from msgspec import to_builtins

from gateway.generation.insight.explanation import Explanation
from gateway.generation.scheduler import Scheduler
from gateway.history.audit import SpooledEntry
from gateway.scheduling.policy import Options


class EntryStore(Protocol):
    """Stores entries of the audit trail."""

    def add_entry(self, entry: SpooledEntry) -> None:
        """Store an entry; on return it survives a killed process."""


class OperatorCommands:
    """Changes the state of one gateway, for an operator."""

    def __init__(self, scheduler: Scheduler, trail: EntryStore) -> None:
        self._scheduler = scheduler
        self._trail = trail

    def pause_engine(self, number: int | None = None, *, by: str) -> None:
        """Stop the computation of one engine, or all, until resumed; all requests are kept.

        Conflict if one cannot be paused. NotFound.
        """
        pause = self._scheduler.pause_engine
        self._change("engine.paused", self._engines, lambda: pause(number), by)

    def drain_engine(self, number: int | None = None, *, by: str) -> None:
        """Dispatch nothing to one engine, or all, until resumed; running requests finish.

        NotFound.
        """
        drain = self._scheduler.drain_engine
        self._change("engine.drained", self._engines, lambda: drain(number), by)

    def resume_engine(self, number: int | None = None, *, by: str) -> None:
        """End a pause or a drain of one engine, or all. NotFound."""
        resume = self._scheduler.resume_engine
        self._change("engine.resumed", self._engines, lambda: resume(number), by)

    def use_policy(self, name: str, options: Options, *, by: str) -> None:
        """Switch to this policy until the next change or restart. InvalidRequest."""
        use = self._scheduler.use_policy
        self._change("policy.changed", self._policy, lambda: use(name, options), by)

    def cancel_request(self, request_id: UUID, *, by: str) -> Explanation:
        """End a request with all its choices; its client gets an error. NotFound if it ended."""
        cancelled = self._scheduler.cancel_request(request_id, by=by)
        self._trail.add_entry(SpooledEntry.of(by, "request.cancelled", request_id))
        return cancelled

    def _change(
        self,
        action: str,
        read: Callable[[], dict[str, Any]],
        change: Callable[[], None],
        by: str,
    ) -> None:
        before = read()
        change()
        after = read()
        if after != before:
            gateway = self._scheduler.gateway_id
            entry = SpooledEntry.of(by, action, gateway, before=before, after=after)
            self._trail.add_entry(entry)

    def _engines(self) -> dict[str, Any]:
        """What is held: with several engines, their numbers."""
        engines = self._scheduler.engine
        if len(engines) == 1:
            return {"paused": engines.paused, "draining": engines.draining}
        return {
            "paused": [each.number for each in engines if each.paused],
            "draining": [each.number for each in engines if each.draining],
        }

    def _policy(self) -> dict[str, Any]:
        options = to_builtins(self._scheduler.options)
        return {"name": self._scheduler.policy.name, **options}
