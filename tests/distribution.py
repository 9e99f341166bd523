"""How pytest-xdist distributes the tests: by file, and end to end by the gateway they share."""

from pathlib import PurePath

from xdist.scheduler import LoadFileScheduling

E2E = PurePath("tests/e2e")
OWN = {
    "test_demo.py",
    "test_hanging_database.py",
    "test_life.py",
    "test_life_cycle.py",
    "test_storm.py",
}


class ByGateway(LoadFileScheduling):
    """Tests of a unit run in one process, units in the order of the command line."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePath(super()._split_scope(nodeid))
        if path.parent == E2E:
            return "own gateway" if path.name in OWN else "shared gateway"
        return str(path)
