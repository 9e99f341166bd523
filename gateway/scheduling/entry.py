"""A request in a tenant's queue, and what is known of it there."""

from msgspec import Struct

from gateway.scheduling.waiting import Waiting


class Entry(Struct, eq=False):
    """A request from its arrival to its start.

    `serving_s` is S, how long it will run; `cost` what it takes of the engine, in KV token-steps.
    Its wait counts from `since_s`. `serial` is unique.
    """

    serial: int
    request: Waiting
    serving_s: float
    cost: float
    since_s: float = 0.0
