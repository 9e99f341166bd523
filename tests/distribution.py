"""How pytest-xdist distributes the tests: by file, and end to end by the gateway they share."""

from pathlib import PurePath

from xdist.scheduler import LoadFileScheduling

SHARED = PurePath("tests/e2e")
COMMANDS = SHARED / "commands"  # with the gateway of SHARED
CLIENTS = SHARED / "clients"  # too
OPENAI = SHARED / "openai"  # too
ENGINES = SHARED / "engines"  # too
OWN = SHARED / "own"  # tests that stop or kill their gateway, or count on a new one
BROWSER = PurePath("tests/browser")
GATEWAY_OF = {
    **dict.fromkeys((SHARED, COMMANDS, CLIENTS, OPENAI, ENGINES), SHARED),
    OWN: OWN,
    BROWSER: BROWSER,
}


class ByGateway(LoadFileScheduling):
    """Tests of a unit run in one process, units in the order of the command line."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePath(super()._split_scope(nodeid))
        return str(GATEWAY_OF.get(path.parent, path))
