"""A calibrated engine with a chosen cost."""

from gateway.replay.cost.calibration import CalibratedEngine, CostFit, FitQuality, StepGroup
from gateway.replay.cost.model import EngineShape, LinearCost

GOOD = FitQuality(steps=100, r2=0.99, median_error=0.03, bias=0.01)


def calibrated_engine(cost: LinearCost) -> CalibratedEngine:
    """An engine of 100 pages whose cost was fitted well."""
    group = StepGroup("t", 0.0, 0.0, 1.0, 1.0, 9, 1.0, 1.1)
    return CalibratedEngine(
        cost=cost,
        shape=EngineShape(pages=100, page_tokens=16, context_tokens=2048),
        model="m",
        device="cpu",
        dtype="float32",
        trials=9,
        fit=CostFit(cost, GOOD, GOOD, group, seen=1.0, hiccups=0),
    )
