"""The parts that a gateway depends on: whether each answers, and how often it was restarted."""

from collections.abc import Mapping

from msgspec import Struct

from gateway.database.supervision import DatabaseWatch
from gateway.engines.supervisor import EngineSupervisor
from gateway.generation.engine_session import EngineSession
from gateway.history.writer import HistoryWriter
from gateway.prediction.serving.predictor import LengthPredictor


class Parts(Struct, frozen=True):
    """The engine, the predictor process, the database, and the way of history there.

    No engine process if it is external.
    """

    engine: EngineSession
    predictor: LengthPredictor
    database: DatabaseWatch
    history: HistoryWriter
    engine_process: EngineSupervisor | None = None

    @property
    def states(self) -> Mapping[str, str]:
        """Each part's state; `connected` if it answers."""
        return {
            "engine": self._engine,
            "predictor": "connected" if self.predictor.connected else "away",
            "database": "connected" if self.database.answers else "away",
            "history": self.history.state,
        }

    @property
    def restarts(self) -> Mapping[str, int]:
        """How often each part died, or was killed since it hung, and was started again."""
        engine = self.engine_process.restarts if self.engine_process else 0
        return {
            "engine": engine,
            "predictor": self.predictor.restarts,
            "database": self.database.restarts,
        }

    @property
    def _engine(self) -> str:
        engine = self.engine
        if engine.connected:
            return "held" if engine.held else "connected"
        return f"starting: {engine.phase}" if engine.phase else "away"
