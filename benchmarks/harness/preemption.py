"""What preemptions cost an engine in a replay."""

from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.results import ReplayResults
from gateway.replay.workload.workload import Workload
from gateway.scheduling.admission.prices import prices


def lost_share(workload: Workload, engine: EngineModel, results: ReplayResults) -> float:
    """The share of the engine's time that preemptions took, at the run's mean load."""
    running = float(workload.generation_tokens.sum()) / results.steps
    held = results.page_seconds / results.busy_s * engine.shape.page_tokens
    price = prices(engine.admission_cost, round(running), held)
    return results.recomputed_tokens * price.lost_s / results.busy_s
