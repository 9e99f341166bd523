"""Which open connections make room for another."""

from gateway.api.connections.open_connections import HEALTH_KEPT, Entry, OpenConnections


class Connection:
    """Knows whether it was closed to make room."""

    def __init__(self) -> None:
        self.closed = False

    def close_idle(self) -> None:
        self.closed = True


def test_monitor_makes_no_room_in_a_flood() -> None:
    open_connections = OpenConnections(limit=2)
    monitor, client = Connection(), Connection()
    for each in (monitor, client):
        assert open_connections.enter(each) is Entry.ADMITTED
    open_connections.mark_idle(monitor, monitor=True)
    assert open_connections.enter(Connection()) is Entry.OVER_LIMIT
    open_connections.mark_idle(client)
    assert open_connections.enter(Connection()) is Entry.ADMITTED
    assert (monitor.closed, client.closed) == (False, True)


def test_few_are_monitors() -> None:
    most = 2 * HEALTH_KEPT + 3
    open_connections = OpenConnections(limit=most)
    connections = [Connection() for _ in range(most)]
    for each in connections:
        open_connections.enter(each)
        open_connections.mark_idle(each, monitor=True)
    entries = [open_connections.enter(Connection()) for _ in range(most)]
    others = most - HEALTH_KEPT
    assert entries.count(Entry.ADMITTED) == others
    assert [each.closed for each in connections] == [True] * others + [False] * HEALTH_KEPT
