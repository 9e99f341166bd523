"""What a policy decides: the requests to send to the engine now."""

from msgspec import Struct

from gateway.scheduling.waiting import Waiting


class Dispatch(Struct, frozen=True):
    """Requests of one model to start together, oldest first.

    `batch` names this dispatch and no other: the part of a batch that fits gets an id of its own.
    `serving_s` is S of these requests, `waited_s` their longest wait W and `ratio` R = (W + S)/S.
    `overdue` tells that they went first because they had waited longer than the bound.
    """

    batch: str
    requests: tuple[Waiting, ...]
    serving_s: float
    ratio: float
    waited_s: float
    overdue: bool
