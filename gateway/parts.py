"""The parts that a gateway depends on: whether each answers, and how often it was restarted."""

from collections.abc import Mapping

from msgspec import Struct

from gateway.database.supervision import DatabaseWatch
from gateway.engines.supervisor import EngineSupervisor
from gateway.generation.engines.group import EngineGroup
from gateway.generation.engines.session import EngineSession
from gateway.history.writer import HistoryWriter
from gateway.prediction.serving.predictor import LengthPredictor


class Parts(Struct, frozen=True):
    """The engines, the predictor process, the database, and the way of history there.

    No engine process if it is external.
    """

    engine: EngineGroup
    predictor: LengthPredictor
    database: DatabaseWatch
    history: HistoryWriter
    engine_process: EngineSupervisor | None = None

    @property
    def states(self) -> Mapping[str, str]:
        """Each part's state; `connected` if it answers, as `engine` does if any engine does."""
        return {
            "engine": _state(self.engine),
            **self.each_engine,
            "predictor": "connected" if self.predictor.connected else "away",
            "database": "connected" if self.database.answers else "away",
            "history": self.history.state,
        }

    @property
    def each_engine(self) -> Mapping[str, str]:
        """The state of each engine, if there are several."""
        if len(self.engine) == 1:
            return {}
        return {f"engine {each.number}": _state(each) for each in self.engine}

    @property
    def restarts(self) -> Mapping[str, int]:
        """How often each part died, or was killed since it hung, and was started again."""
        engine = self.engine_process.restarts if self.engine_process else 0
        return {
            "engine": engine,
            "predictor": self.predictor.restarts,
            "database": self.database.restarts,
        }


def _state(engine: EngineGroup | EngineSession) -> str:
    if engine.connected:
        return "held" if engine.held else "connected"
    if engine.refused:
        return "refused"
    return f"starting: {engine.phase}" if engine.phase else "away"
