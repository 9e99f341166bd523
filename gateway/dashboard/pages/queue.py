"""Queue: running and waiting requests, their expected times, and why each is in its place."""

from typing import Annotated, Final
from uuid import UUID

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from gateway.api.admin.actor import Actor
from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.access.viewer import Viewer, Viewers
from gateway.dashboard.charts.length_bar import LengthBar, LengthScale
from gateway.dashboard.live.board import LiveBoard
from gateway.dashboard.live.gateway import LiveGateway
from gateway.dashboard.live.stream import live_stream
from gateway.dashboard.view.templates import fragment, page, render
from gateway.generation.insight.place import place_reason
from gateway.generation.insight.queue_view import QueueEntry
from gateway.generation.operation.commands import OperatorCommands
from gateway.history.requests import known_id
from gateway.tenancy.scopes import Scope

ROWS: Final = 50
LAST_OFFSET: Final = 1_000_000

Offset = Annotated[int, QueryParameter(ge=0, le=LAST_OFFSET, description="requests to skip")]
OfTenant = Annotated[UUID | None, QueryParameter(description="only this tenant's requests")]


class QueueRow(Struct, frozen=True):
    """A row of the table."""

    entry: QueueEntry
    bar: LengthBar
    why: str


class QueueView(Struct, frozen=True):
    """A page of the queue, of one tenant or all."""

    gateway: LiveGateway
    offset: int
    tenant: UUID | None
    cancels: bool
    named: bool  # whether other tenants than the viewer's are shown

    def render(self) -> str:
        """The present content, as HTML."""
        service = self.gateway.service
        queue = service.scheduler.read_queue(limit=ROWS, offset=self.offset, tenant=self.tenant)
        scale = LengthScale(max((each.max_tokens for each in queue.requests), default=1))
        return render(
            "queue_live.html",
            {
                "totals": queue.totals,
                "rows": [_row(each, scale) for each in queue.requests],
                "scale": scale,
                "first": self.offset + 1,
                "cancels": self.cancels,
                "named": self.named,
                "held": service.scheduler.engine.held,
                "engine": self.gateway.parts.states["engine"],
                "previous": None if not self.offset else self._address(self.offset - ROWS),
                "next": self._address(self.offset + ROWS) if queue.more else None,
            },
        )

    @property
    def query(self) -> str:
        """The view's parameters, for addresses."""
        tenant = "" if self.tenant is None or not self.named else f"&tenant={self.tenant}"
        return f"offset={self.offset}{tenant}"

    def _address(self, offset: int) -> str:
        tenant = "" if self.tenant is None or not self.named else f"&tenant={self.tenant}"
        return f"/page/queue?offset={max(offset, 0)}{tenant}"


class QueueController(Controller):
    """Shows the queue of this gateway; keys of apps see that of their tenant."""

    path = "/page/queue"
    opt = page_of(Scope.ENGINE, own=True)

    @get("/")
    async def show(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        live: NamedDependency[LiveGateway],
        offset: Offset = 0,
        tenant: OfTenant = None,
    ) -> Response[str]:
        """The page."""
        view = view_of(viewer, live, offset, tenant)
        return page(
            "queue.html", viewer, session, path=self.path, live=view.render(), query=view.query
        )

    @get("/live")
    async def follow(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        live: NamedDependency[LiveGateway],
        board: NamedDependency[LiveBoard],
        viewers: NamedDependency[Viewers],
        offset: Offset = 0,
        tenant: OfTenant = None,
    ) -> Stream:
        """Its content, about once a second."""
        return live_stream(view_of(viewer, live, offset, tenant), board, session, viewers)

    @post("/{request_id:str}/cancel", status_code=200)
    async def cancel(
        self,
        request_id: FromPath[str],
        commands: NamedDependency[OperatorCommands],
        actor: Actor,
    ) -> Response[str]:
        """Cancel a request, as `POST /admin/requests/{id}/cancel` does."""
        commands.cancel_request(known_id(request_id), by=actor)
        return fragment("notice.html", message="The request was cancelled")


def view_of(viewer: Viewer, live: LiveGateway, offset: int, tenant: UUID | None) -> QueueView:
    """What this viewer sees: an app's key its own tenant, whatever it asks for."""
    own = viewer.tenant
    return QueueView(
        live,
        offset,
        tenant if own is None else own,
        cancels=viewer.may(Scope.ENGINE, reads=False),
        named=own is None,
    )


def _row(entry: QueueEntry, scale: LengthScale) -> QueueRow:
    bar = LengthBar(
        scale,
        entry.predicted_p10_tokens,
        entry.predicted_tokens,
        entry.predicted_p90_tokens,
        entry.generated_tokens if entry.state == "running" else None,
    )
    return QueueRow(entry, bar, place_reason(entry))
