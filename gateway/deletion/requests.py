"""Ends the requests of deleted tenants and apps that wait or run on this gateway."""

from sqlalchemy import select

from gateway.database.errors import Sessions, transaction
from gateway.errors import RequestCancelled
from gateway.generation.scheduler import Scheduler
from models import App


class DeletedRequests:
    """The requests of this gateway whose app or tenant is deleted."""

    def __init__(self, sessions: Sessions, scheduler: Scheduler) -> None:
        self._sessions = sessions
        self._scheduler = scheduler

    async def end(self) -> None:
        """End them: their clients get RequestCancelled. DatabaseLost."""
        apps = {state.request.caller.app_id for state in self._scheduler.table}
        if not apps:
            return
        gone = select(App.id).where(App.id.in_(apps), App.deleted_at.is_not(None))
        async with transaction(self._sessions) as session:
            deleted = {*await session.scalars(gone)}
        for state in list(self._scheduler.table):
            if state.request.caller.app_id in deleted:
                error = RequestCancelled("the API key's tenant or app was deleted")
                self._scheduler.cancel(state, error)
