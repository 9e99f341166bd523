"""A request in a tenant's queue, and what is known of it there."""

from msgspec import Struct

from gateway.scheduling.waiting import Waiting


class Entry(Struct, eq=False):
    """A request from its arrival to its start.

    `serving_s` is S, how long it will run; `work` what joining takes, in KV token-steps. Its turn
    under first come, first served came at `turn_s`. `serial` is unique.
    """

    serial: int
    request: Waiting
    serving_s: float
    work: float
    turn_s: float | None = None
    waits: bool = True
