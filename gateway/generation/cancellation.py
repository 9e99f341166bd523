"""Ends a request that an operator wants gone."""

from uuid import UUID

import structlog

from gateway.errors import RequestCancelled
from gateway.generation.dispatcher import Dispatcher
from gateway.generation.live import LiveRequest
from gateway.history.requests import no_request

log = structlog.get_logger()


def cancel_request(dispatcher: Dispatcher, request_id: UUID, *, by: str) -> LiveRequest:
    """The request, ended with all its choices; its client is told. NotFound where it has ended."""
    found = dispatcher.find(request_id)
    if found is None:
        raise no_request(f"{request_id} that waits or runs")
    queued = (*dispatcher.waiting_requests(), *dispatcher.running_requests())
    for live in [live for live in queued if live.ask is found.ask]:
        dispatcher.cancel(live, RequestCancelled("an operator cancelled the request"))
    log.info("request_cancelled", request=str(request_id), by=by)
    return found
